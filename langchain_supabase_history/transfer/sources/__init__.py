"""Sources: each module reads what some program writes, as parts of conversations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from ...core.values import loads
from ...errors import InvalidInput
from ..files import opened, reading_errors
from ..formats.jsonl import MAX_LINE, is_ours, read_lines
from ..parts import COUNTED, Ends, Part, Unreadable
from .documents import KINDS, kind_of, read_conversation

FORMATS: Final = ("jsonl", "json", *KINDS)
_MAX_DOCUMENT: Final = 2**30  # bytes that are read into memory at once
_FILE: Final = re.compile(r"\.jsonl?(\.gz|\.zst)?$", re.IGNORECASE)
_HOW: Final = "See docs/import.md for what can be imported."


def check_format(format: object, formats: Sequence[str]) -> None:
    """Refuse a format that is none of these; None stands for whichever is recognised.

    Raises:
        InvalidInput: It is another.
    """
    if format is not None and not (isinstance(format, str) and format in formats):
        raise InvalidInput(f"format must be one of {', '.join(formats)}.")


def read_folder(folder: str | os.PathLike[str], format: str | None = None) -> Iterator[Part | Unreadable]:
    """The parts of all conversations in a folder's files, by name: those that end in .json or .jsonl, also packed.

    Raises:
        InvalidInput: There is no such file in it.
    """
    names = (path for path in sorted(Path(folder).iterdir()) if _FILE.search(path.name) and path.is_file())
    path = None
    for path in names:
        try:
            with opened(path) as file:
                for item in read(file, format):
                    yield (
                        Unreadable(f"{path.name}, {item.where}", item.reason) if isinstance(item, Unreadable) else item
                    )
        except InvalidInput as error:
            yield Unreadable(path.name, error.says)
        except reading_errors() as error:
            yield Unreadable(path.name, f"it cannot be read to its end ({error})")
    if path is None:
        raise InvalidInput("The folder holds no file that ends in .json or .jsonl.", advice=_HOW)


def read(file: BinaryIO, format: str | None = None) -> Iterator[Part | Unreadable]:
    """The parts of all conversations in a file, whatever program wrote it.

    Args:
        file: The file, from its beginning.
        format: One of `FORMATS`; by default it is recognised.

    Raises:
        InvalidInput: It is nothing that is known.
    """
    try:
        first = _first_line(file)
    except reading_errors() as error:
        raise InvalidInput(f"The file cannot be read: {error}.", advice=_HOW) from error
    if format == "jsonl" or (format is None and is_ours(first)):
        return read_lines(_chain(first, file))
    return _documents(first, file, format)


def _first_line(file: BinaryIO) -> bytes:
    """The first line that is not blank, with those in front of it."""
    first = line = file.readline(MAX_LINE + 1)
    while line and not line.strip():
        first += (line := file.readline(MAX_LINE + 1))
    return first


def _chain(first: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield first
    while line := file.readline(MAX_LINE + 1):
        yield line


def _documents(first: bytes, file: BinaryIO, format: str | None) -> Iterator[Part | Unreadable]:
    values = _json_lines(_chain(first, file), first.count(b"\n")) if _is_json(first) else None
    if values is None or (format is None and kind_of(_loads(first)) is None):
        whole = first + file.read(_MAX_DOCUMENT)
        if len(whole) > _MAX_DOCUMENT:
            raise InvalidInput("The file is larger than 1 GB, and not in this library's own format.", advice=_HOW)
        values = _values(whole)
    for where, value in values:
        if isinstance(value, Unreadable):
            yield value
            continue
        kind = format if format in KINDS else "json" if _is_exported(value) else kind_of(value)
        if kind is None:
            yield Unreadable(where, "it is no conversation in a form that is known")
        elif kind == "json":
            try:
                parts = list(_exported(value))
            except (AttributeError, TypeError) as error:
                yield Unreadable(where, f"it is no conversation of this library ({type(error).__name__})")
            else:
                yield from parts
        else:
            yield from read_conversation(value, kind, where)


def _loads(text: bytes) -> Any:
    return loads(text.strip().removeprefix(b"\xef\xbb\xbf"))


def _is_json(line: bytes) -> bool:
    try:
        return len(line) <= MAX_LINE and isinstance(_loads(line), (dict, list))
    except (ValueError, RecursionError):
        return False


def _json_lines(lines: Iterable[bytes], first: int) -> Iterable[tuple[str, Any]]:
    for number, line in enumerate(lines, first or 1):
        if not line.strip():
            continue
        where = f"line {number}"
        if len(line) > MAX_LINE:
            yield where, Unreadable(where, f"it is longer than {MAX_LINE // 2**20} MB")
            continue
        try:
            yield where, _loads(line)
        except (ValueError, RecursionError) as error:
            yield where, Unreadable(where, f"it is not JSON in UTF-8 ({error})")


def _values(whole: bytes) -> Iterable[tuple[str, Any]]:
    try:
        document = orjson.loads(whole.strip().removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        try:
            document = json.loads(whole)
        except (ValueError, RecursionError):
            if _is_damaged_in_front(whole):
                return _json_lines(whole.splitlines(), 1)
            raise InvalidInput(f"The file is not JSON in UTF-8: {error}.", advice=_HOW) from None
    if isinstance(document, dict) and isinstance(document.get("conversations"), list):
        document = document["conversations"]
    if isinstance(document, list) and kind_of(document) is None:
        return [(f"conversation {number}", value) for number, value in enumerate(document, 1)]
    return [("the file", document)]


def _is_damaged_in_front(whole: bytes) -> bool:
    """Whether a file is a conversation a line, of which the first is damaged."""
    first, _, rest = whole.partition(b"\n")
    second = rest.partition(b"\n")[0]
    return first.lstrip().startswith(b"{") and _is_json(second) and kind_of(_loads(second)) is not None


def _is_exported(value: Any) -> bool:
    return isinstance(value, dict) and "session_id" in value and isinstance(value.get("turns"), list)


def _exported(value: dict[str, Any]) -> Iterator[Part]:
    """The parts of a conversation that was exported as one JSON object."""
    header = {name: item for name, item in value.items() if name not in COUNTED.values()}
    ends = Ends()
    yield from ends.take({**header, "kind": "session", "user_id": header.get("user_id")})
    for kind, name in COUNTED.items():
        for row in value.get(name) or ():
            messages = row.pop("messages", ()) if kind == "alternative" else ()
            yield from ends.take({**row, "kind": kind})
            for message in messages:
                yield from ends.take({**message, "kind": "message", "alternative_id": row.get("id")})
    yield from ends.finish()
