"""Import: conversations from a file, each whole or not at all, in bounded batches. Done again, it adds nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, Any, Final, TypedDict

from ..core.arguments import check_callable, check_flag, check_optional_id
from ..core.call import Blocking, Call, Function, Json, Plan
from ..core.values import loads
from ..operations.scope import Scope
from .files import opened, reading_errors
from .formats.jsonl import dumps
from .parts import COUNTED, Part, Unreadable, problem_with
from .sources import read

Source = str | os.PathLike[str] | IO[bytes]

_BATCH_BYTES: Final = 2_000_000
_BATCH_ROWS: Final = 2_000
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


class ImportOptions(TypedDict, total=False):
    """The options of `import_sessions`; see there."""

    format: str | None
    user_id: str | None
    dry_run: bool
    progress: Callable[[Imported], None] | None


def import_sessions(
    scope: Scope,
    source: Source,
    *,
    format: str | None = None,
    user_id: str | None = None,
    dry_run: bool = False,
    progress: Callable[[Imported], None] | None = None,
) -> Plan[Imported]:
    """See `Transfer.import_sessions`."""
    check_callable(progress, "progress")
    check_flag(dry_run, "dry_run")
    owner = scope.user_or_all(check_optional_id(user_id, "user_id"), "import_sessions")
    with opened(source) as file:
        done: Imported = yield from _import(scope, batches(read(file, format)), owner, dry_run, progress)
    return done


def _import(
    scope: Scope,
    found: Iterator[Batch | Unreadable],
    owner: str | None,
    dry_run: bool,
    progress: Callable[[Imported], None] | None,
) -> Plan[Imported]:
    report = Imported()
    while (item := (yield Blocking(partial(next, found, None)))) is not None:
        if isinstance(item, Unreadable):
            report = report.with_problem(f"{item.where}: {item.reason}")
        else:
            report = yield from _store(scope, item, owner, dry_run, report)
        if progress is not None:
            progress(report)
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


def batches(parts: Iterator[Part | Unreadable]) -> Iterator[Batch | Unreadable]:
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
        for kind, row, size in rows:
            if batch.is_full():
                yield batch
                piece = {"session": session}
                batch = Batch([piece])
            piece.setdefault(COUNTED[kind], []).append(row)
            batch.rows += 1
            batch.bytes += size
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
                where, session = _name(part if session is None else session), None
                yield Unreadable(where, problem)
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
