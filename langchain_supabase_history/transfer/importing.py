"""Import: conversations from a file, each whole or not at all, in bounded batches. Done again, it adds nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final, TypedDict, Unpack

from ..core.arguments import check_callable, check_flag, check_id, check_optional_id, check_text
from ..core.call import Blocking, Call, Function, Json, Plan
from ..core.values import loads
from ..errors import InvalidInput
from ..operations.scope import Scope
from .files import is_folder, opened, reading_errors
from .formats.jsonl import dumps
from .parts import COUNTED, Part, Unreadable, problem_with
from .sources import FORMATS, check_format, read, read_folder
from .sources.building import Found, FoundConversation, parts_of

if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory

Source = str | os.PathLike[str] | IO[bytes]

_BATCH_BYTES: Final = 2_000_000
_BATCH_ROWS: Final = 2_000
_CONNECT_SECONDS: Final = 10.0
_IN_MEMORY: Final = 32 * 2**20  # bytes of one conversation; more of it is kept in a temporary file
_MAX_PROBLEMS: Final = 100

IMPORT: Final = Function("chat_history_import", {"conversations": "json", "dry_run": "boolean"})


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, or, as a dry run, would do.

    Attributes:
        sessions: Sessions that were not there before.
        messages: Messages that were stored now.
        known: Messages that were stored already.
        unreadable: Conversations (or files) that could not be read; nothing of them was stored.
        problems: Why, for the first hundred of them.
    """

    sessions: int = 0
    messages: int = 0
    known: int = 0
    unreadable: int = 0
    problems: tuple[str, ...] = ()

    def with_problem(self, problem: str) -> Imported:
        """The same, and one more that could not be read."""
        problems = self.problems if len(self.problems) >= _MAX_PROBLEMS else (*self.problems, problem)
        return replace(self, unreadable=self.unreadable + 1, problems=problems)


class ReportOptions(TypedDict, total=False):
    """What all imports have in common; see `Transfer.import_sessions`."""

    user_id: str | None
    dry_run: bool
    progress: Callable[[Imported], None] | None


class ImportOptions(ReportOptions, total=False):
    """The options of `import_sessions`; see there."""

    format: str | None


class TableOptions(ReportOptions, total=False):
    """The options of `import_table`; see there."""

    format: str | None


def import_sessions(
    scope: Scope, source: Source, *, format: str | None = None, **options: Unpack[ReportOptions]
) -> Plan[Imported]:
    """See `Transfer.import_sessions`."""
    check_format(format, FORMATS)
    check = _checked(scope, **options)
    if is_folder(source):
        return (yield from _import(scope, read_folder(source, format), check))
    with opened(source) as file:
        return (yield from _import(scope, read(file, format), check))


def import_table(
    scope: Scope,
    conninfo: str,
    table: str | None = None,
    *,
    format: str | None = None,
    **options: Unpack[ReportOptions],
) -> Plan[Imported]:
    """See `Transfer.import_table`."""
    # They import psycopg, which an application on the Data API does without.
    from ..drivers.conninfo import read as read_conninfo, with_defaults
    from .sources.tables import TABLES, read_table

    check_format(format, tuple(TABLES))
    check = _checked(scope, **options)
    address = with_defaults(read_conninfo(conninfo).text, _CONNECT_SECONDS)
    name = None if table is None else check_text(table, "table", 200)
    return (yield from _import(scope, read_table(address, name, format), check))


def import_history(
    scope: Scope, history: BaseChatMessageHistory, session_id: str, **options: Unpack[ReportOptions]
) -> Plan[Imported]:
    """See `Transfer.import_history`."""
    from langchain_core.chat_history import BaseChatMessageHistory

    check_id(session_id)
    if not isinstance(history, BaseChatMessageHistory):
        raise InvalidInput(f"history must be a BaseChatMessageHistory, got {type(history).__name__}.")
    check = _checked(scope, **options)
    messages = yield Blocking(lambda: list(history.messages))
    found = FoundConversation("history", session_id, [Found(message) for message in messages])
    return (yield from _import(scope, parts_of(found), check))


@dataclass(frozen=True, slots=True)
class _Checked:
    """What all imports have in common, checked."""

    owner: str | None
    dry_run: bool
    progress: Callable[[Imported], None] | None


def _checked(
    scope: Scope,
    *,
    user_id: str | None = None,
    dry_run: bool = False,
    progress: Callable[[Imported], None] | None = None,
) -> _Checked:
    owner = scope.user_or_own(check_optional_id(user_id, "user_id"))
    return _Checked(owner, check_flag(dry_run, "dry_run"), check_callable(progress, "progress"))


def _import(scope: Scope, parts: Iterator[Part | Unreadable], options: _Checked) -> Plan[Imported]:
    found = batches(parts)
    report = Imported()
    try:
        while (item := (yield Blocking(partial(next, found, None)))) is not None:
            if isinstance(item, Unreadable):
                report = report.with_problem(f"{item.where}: {item.reason}")
            else:
                report = yield from _store(scope, item, options.owner, options.dry_run, report)
            if options.progress is not None:
                options.progress(report)
    finally:
        found.close()
    return report


@dataclass(slots=True)
class Batch:
    """Conversations, or pieces of them, that one call stores."""

    conversations: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0

    def is_full(self) -> bool:
        """Whether it should be stored before more is added."""
        return self.rows >= _BATCH_ROWS or self.bytes >= _BATCH_BYTES


def _store(scope: Scope, batch: Batch, owner: str | None, dry_run: bool, report: Imported) -> Plan[Imported]:
    if scope.identity is not None:  # whoever is signed in owns what is stored
        for conversation in batch.conversations:
            conversation["session"] = {**conversation["session"], "user_id": None}
    args = {"conversations": Json(dumps(batch.conversations)), "user_id": owner, "dry_run": dry_run or None}
    reply = yield Call(IMPORT, args, lambda reply: reply)
    for refused in reply["refused"]:
        session = batch.conversations[refused["n"]]["session"]
        report = report.with_problem(f"{_name(session)}: {refused['message']}")
    return replace(
        report,
        sessions=report.sessions + reply["sessions"],
        messages=report.messages + reply["messages"],
        known=report.known + reply["known"],
    )


# --- whole conversations, in batches ----------------------------------------------------------------------------------


def batches(parts: Iterator[Part | Unreadable]) -> Generator[Batch | Unreadable]:
    """The conversations that are whole, in batches; in front of them what of the parts before could not be read."""
    batch = Batch()
    for item in _whole(parts):
        if isinstance(item, Unreadable):
            yield item
            continue
        session, rows = item
        piece: dict[str, Any] = {"session": session}
        batch.conversations.append(piece)
        batch.bytes += 300
        batch.rows += 1
        before = ""
        for kind, row, size in rows:
            if batch.is_full() and before != "alternative":  # which its first message goes with
                yield batch
                piece = {"session": session}
                batch = Batch([piece])
            piece.setdefault(COUNTED[kind], []).append(row)
            batch.rows += 1
            batch.bytes += size
            before = kind
        if batch.is_full():
            yield batch
            batch = Batch()
    if batch.conversations:
        yield batch


def _readable(parts: Iterator[Part | Unreadable]) -> Iterator[Part | Unreadable]:
    """The parts up to where the file cannot be read any more."""
    try:
        yield from parts
    except reading_errors() as error:
        yield Unreadable("the file", f"it cannot be read to its end ({error})")


_Rows = Iterator[tuple[str, dict[str, Any], int]]  # kind, row and its size in bytes


def _whole(parts: Iterator[Part | Unreadable]) -> Iterator[tuple[dict[str, Any], _Rows] | Unreadable]:
    """Each conversation whose end has come: its session, and its rows. What is cut off is unreadable."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
        session: dict[str, Any] | None = None
        counts = dict.fromkeys(COUNTED.values(), 0)
        for part in _readable(parts):
            if isinstance(part, Unreadable):
                session = None
                yield part
            elif (problem := problem_with(part)) is not None:
                if session is not None or part.get("kind") == "session":  # else its conversation was told of before
                    yield Unreadable(_name(part if session is None else session), problem)
                session = None
            elif part["kind"] == "session":
                if session is not None:
                    yield _cut_off(session)
                session = {name: value for name, value in part.items() if name != "kind"}
                counts = dict.fromkeys(counts, 0)
                spool.seek(0)
                spool.truncate()
            elif session is None:
                continue  # of a conversation whose beginning could not be read
            elif part["kind"] != "end":
                counts[COUNTED[part["kind"]]] += 1
                spool.write(dumps(part) + b"\n")
            else:
                whole, session = session, None
                if any(part.get(name, 0) != count for name, count in counts.items()):
                    yield Unreadable(_name(whole), "parts of it are missing")
                    continue
                spool.seek(0)
                yield whole, _rows(spool)
        if session is not None:
            yield _cut_off(session)


def _rows(spool: IO[bytes]) -> _Rows:
    for line in spool:
        row = loads(line)
        yield row.pop("kind"), row, len(line)


def _cut_off(session: Part) -> Unreadable:
    return Unreadable(_name(session), "it is cut off: its end is missing")


def _name(session: Part) -> str:
    return f"session {str(session.get('session_id'))[:100]!r}"
