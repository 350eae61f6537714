"""JSON: one array, an object a conversation, its parts in lists. For programs that read a whole file at once."""

from __future__ import annotations

from typing import Any, BinaryIO

from ..parts import COUNTED, Part
from .jsonl import dumps


class JsonArray:
    """Writes conversations as the objects of one array."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._before = b"[\n"
        self._open: dict[str, Any] = {}

    def write(self, part: Part) -> None:
        """Write the next part; a conversation is written at its end."""
        kind = part["kind"]
        if kind == "session":
            session = {name: value for name, value in part.items() if name != "kind"}
            self._open = {**session, **{name: [] for name in COUNTED.values()}}
        elif kind == "end":
            self._out.write(self._before + dumps(self._open))
            self._before = b",\n"
        else:
            row = {name: value for name, value in part.items() if name not in ("kind", "alternative_id")}
            if kind == "alternative":
                row["messages"] = []
            taken_out = kind == "message" and part.get("alternative_id") is not None
            target = self._open["alternatives"][-1]["messages"] if taken_out else self._open[COUNTED[kind]]
            target.append(row)

    def close(self) -> None:
        """Close the array."""
        self._out.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")
