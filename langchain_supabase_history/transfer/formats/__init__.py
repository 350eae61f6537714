"""Formats: each module turns parts into bytes, or bytes into parts."""

from __future__ import annotations

from typing import Protocol

from ..parts import Part


class Writer(Protocol):
    """Writes parts to a file that it was made for."""

    def write(self, part: Part) -> None:
        """Write the next part."""

    def close(self) -> None:
        """Write what belongs to the end; the file itself stays open."""
