"""Formats: each module turns parts into bytes, or bytes into parts. Those that can be written are listed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from ..parts import Part

Format = Literal["jsonl", "json", "csv", "parquet", "openai", "openai-preferences", "markdown", "html"]


class Writer(Protocol):
    """Writes parts to a file that it was made for."""

    def write(self, part: Part) -> None:
        """Write the next part."""

    def close(self) -> None:
        """Write what belongs to the end; the file itself stays open."""


@dataclass(frozen=True, slots=True)
class WrittenFormat:
    """A format that can be written.

    Attributes:
        module: Its module in this folder, imported when it is used.
        writer: Its class there, a `Writer`.
        ending: What names of its files end in; "" where the command needs `--format`.
        options: Names of the options that its writer takes.
    """

    module: str
    writer: str
    ending: str = ""
    options: frozenset[str] = frozenset()

    def load(self) -> Callable[..., Writer]:
        """The writer's class."""
        found: Callable[..., Writer] = getattr(import_module(f".{self.module}", __name__), self.writer)
        return found


_ROWS: Final = frozenset({"rows"})
_TRAINING: Final = frozenset({"tools", "feedback_key"})

FORMATS: Final[dict[Format, WrittenFormat]] = {
    "jsonl": WrittenFormat("jsonl", "JsonLines", ".jsonl"),
    "json": WrittenFormat("json_array", "JsonArray", ".json"),
    "csv": WrittenFormat("tables", "Csv", ".csv", _ROWS),
    "parquet": WrittenFormat("tables", "Parquet", ".parquet", _ROWS),
    "openai": WrittenFormat("openai", "OpenAiFineTuning", options=_TRAINING),
    "openai-preferences": WrittenFormat("preferences", "OpenAiPreferences", options=_TRAINING),
    "markdown": WrittenFormat("transcript", "Markdown", ".md"),
    "html": WrittenFormat("transcript", "Html", ".html"),
}


def format_of(name: str) -> Format:
    """The format of a file of this name, compressed or not: as the name ends, else JSONL."""
    plain = name.lower().removesuffix(".gz").removesuffix(".zst")
    return next((name for name, known in FORMATS.items() if known.ending and plain.endswith(known.ending)), "jsonl")
