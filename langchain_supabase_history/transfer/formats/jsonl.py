"""JSON Lines: the exact format, a part a line, in front of them a header that names format and version.

A file that was cut off has no `end` for its last conversation, which is then reported and not imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

import orjson

from ...core.values import loads
from ...errors import InvalidInput
from ..parts import KINDS, Part, Unreadable

FORMAT: Final = "langchain-supabase-history"
VERSION: Final = 1
MAX_LINE: Final = 64 * 2**20  # bytes: a message of 16 MB, escaped


def dumps(value: Any) -> bytes:
    """A value as JSON; numbers that orjson does not take are written as they were read."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), default=str).encode()


class JsonLines:
    """Writes parts as lines."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        header = {"kind": "header", "format": FORMAT, "version": VERSION, "created_at": datetime.now(UTC).isoformat()}
        out.write(dumps(header) + b"\n")

    def write(self, part: Part) -> None:
        """Write the next part."""
        self._out.write(dumps(part) + b"\n")

    def close(self) -> None:
        """Nothing belongs to the end."""


def is_ours(first_line: bytes) -> bool:
    """Whether this is the header of such a file."""
    try:
        header = orjson.loads(first_line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return False
    return isinstance(header, dict) and header.get("kind") == "header" and header.get("format") == FORMAT


def read_lines(lines: Iterable[bytes]) -> Iterator[Part | Unreadable]:
    """The parts in a file's lines. A line that is none makes its conversation unreadable, not those after it.

    Raises:
        InvalidInput: The file is of a later version.
    """
    for number, line in enumerate(lines, 1):
        line = line.strip().removeprefix(b"\xef\xbb\xbf")
        if not line:
            continue
        part = _parse(line, number)
        if isinstance(part, Unreadable):
            yield part
        elif part.get("kind") == "header":
            _check_header(part)
        elif part.get("kind") not in KINDS:
            yield Unreadable(f"line {number}", "it is no part of a conversation")
        else:
            yield part


def _parse(line: bytes, number: int) -> dict[str, Any] | Unreadable:
    where = f"line {number}"
    if len(line) > MAX_LINE:
        return Unreadable(where, f"it is longer than {MAX_LINE // 2**20} MB")
    try:
        part = loads(line)
    except (ValueError, RecursionError):
        return Unreadable(where, "it is not JSON in UTF-8")
    return part if isinstance(part, dict) else Unreadable(where, "it is no JSON object")


def _check_header(header: dict[str, Any]) -> None:
    version = header.get("version")
    if header.get("format") != FORMAT or not isinstance(version, int):
        raise InvalidInput(f"The file's header is not one of {FORMAT}.")
    if version > VERSION:
        raise InvalidInput(
            f"The file has version {version} of its format; this release reads up to {VERSION}.",
            advice="Install a later release of langchain_supabase_history.",
        )
