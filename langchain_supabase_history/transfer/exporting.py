"""Export: conversations out of a store, in bounded pages, into a file of some format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Any, BinaryIO, Final, TypedDict, Unpack, get_args

import orjson

from ..core.arguments import check_callable, check_id, check_text
from ..core.call import Blocking, Call, Function, Json, Plan
from ..errors import InvalidInput
from ..operations.scope import Scope
from ..operations.sessions import SessionFilter, list_sessions
from .files import written
from .formats import FORMATS, Format, Writer
from .formats.tables import Rows
from .parts import Ends, Part

Target = str | os.PathLike[str] | IO[bytes]
_Page = tuple[list[tuple[str | None, str]], Any]  # users and names of sessions, and where to go on
SessionPages = Callable[[Any], Plan[_Page]]

_FILTERS: Final = {"query", "all_users", *SessionFilter.__annotations__}
_SESSIONS_A_CALL: Final = 200

EXPORT: Final = Function(
    "chat_history_export", {"session_ids": "text[]", "user_ids": "text[]", "after": "json", "max_bytes": "integer"}
)


@dataclass(frozen=True, slots=True)
class Exported:
    """How much was exported, so far or in all."""

    sessions: int
    messages: int


class FormatOptions(TypedDict, total=False):
    """The options of formats; see `Transfer.export_sessions`."""

    rows: Rows
    tools: Sequence[dict[str, Any]] | None
    feedback_key: str | None


class FileOptions(FormatOptions, total=False):
    """What all exports to a file have in common; see `Transfer.export_sessions`."""

    format: Format
    progress: Callable[[Exported], None] | None


class ExportOptions(SessionFilter, FileOptions, total=False):
    """The options of `export_sessions`; see there."""

    query: str | None
    all_users: bool
    session_ids: Sequence[str] | None


def export_sessions(
    scope: Scope,
    target: Target,
    *,
    format: Format = "jsonl",
    session_ids: Sequence[str] | None = None,
    progress: Callable[[Exported], None] | None = None,
    **options: Any,
) -> Plan[Exported]:
    """See `Transfer.export_sessions`."""
    check_callable(progress, "progress")
    filters = {name: options.pop(name) for name in list(options) if name in _FILTERS}
    pages = pages_of_sessions(scope, session_ids, filters)
    make = _writer(format, options)
    with written(target) as out:
        writer = make(out)
        exported = yield from export_parts(scope, pages, writer, progress)
        yield Blocking(writer.close)
    return exported


def pages_of_sessions(scope: Scope, session_ids: Sequence[str] | None, filters: Mapping[str, Any]) -> SessionPages:
    """The sessions to export, a page at a time: those of these names, or those that filters choose.

    Raises:
        InvalidInput: The names are no list of names, or there are filters as well.
    """
    if session_ids is None:
        return _listed(scope, filters)
    if filters:
        raise InvalidInput(f"Give session_ids or filters, not both: {', '.join(filters)}.")
    return _chosen(scope, [check_id(session_id) for session_id in _list(session_ids, "session_ids")])


def export_parts(
    scope: Scope, pages: SessionPages, writer: Writer, progress: Callable[[Exported], None] | None
) -> Plan[Exported]:
    """Write the parts of these sessions to a writer, which stays open."""
    exported = Exported(0, 0)
    sessions, cursor = yield from pages(None)
    while True:
        exported = yield from _export_page(scope, sessions, writer, exported, progress)
        if cursor is None:
            return exported
        sessions, cursor = yield from pages(cursor)


def export_user(scope: Scope, user_id: str, target: Target, **options: Unpack[FileOptions]) -> Plan[Exported]:
    """See `Transfer.export_user`."""
    owner = scope.user_or_own(check_id(user_id, "user_id"))
    return export_sessions(replace(scope, user_id=owner), target, archived=None, **options)


def _writer(format: Format, options: Mapping[str, Any]) -> Callable[[BinaryIO], Writer]:
    if not isinstance(format, str) or format not in FORMATS:
        raise InvalidInput(f"format must be one of {', '.join(FORMATS)}.")
    known = FORMATS[format]
    if unknown := set(options) - known.options:
        raise InvalidInput(f"The format {format} has no option {', '.join(sorted(unknown))}.")
    rows, tools, feedback_key = options.get("rows"), options.get("tools"), options.get("feedback_key")
    if "rows" in options and not (isinstance(rows, str) and rows in get_args(Rows)):
        raise InvalidInput("rows must be 'messages' or 'conversations'.")
    if tools is not None and not all(isinstance(tool, dict) for tool in _list(tools, "tools")):
        raise InvalidInput("tools must be a list of schemas in OpenAI's form: dictionaries.")
    if feedback_key is not None:
        check_text(feedback_key, "feedback_key", 1000)
    return partial(known.load(), **options)


def _list(value: object, name: str) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InvalidInput(f"{name} must be a list.")
    return value


def _chosen(scope: Scope, session_ids: Sequence[str]) -> SessionPages:
    def page(cursor: int | None) -> Plan[_Page]:
        start = cursor or 0
        part = session_ids[start : start + _SESSIONS_A_CALL]
        end = start + len(part)
        return [(scope.user_id, session_id) for session_id in part], end if end < len(session_ids) else None
        yield

    return page


def _listed(scope: Scope, filters: Mapping[str, Any]) -> SessionPages:
    def page(cursor: str | None) -> Plan[_Page]:
        # By creation, which never changes: what is written to meanwhile is exported once.
        found = yield from list_sessions(scope, order="-created", limit=_SESSIONS_A_CALL, cursor=cursor, **filters)
        return [(session.user_id, session.session_id) for session in found], found.next_cursor

    return page


def _export_page(
    scope: Scope,
    sessions: Sequence[tuple[str | None, str]],
    writer: Writer,
    exported: Exported,
    progress: Callable[[Exported], None] | None,
) -> Plan[Exported]:
    """The conversations of one page of sessions, in as many calls as their size takes."""
    after: Json | None = None
    ends = Ends()
    while True:
        args = {
            "session_ids": [session_id for _, session_id in sessions],
            "user_ids": [user_id or scope.user_id or "" for user_id, _ in sessions]
            if _names_users(scope, sessions)
            else None,
            "after": after,
        }
        reply = yield Call(EXPORT, args, lambda reply: reply)
        parts = [part for row in reply["parts"] for part in ends.take(_part(row))]
        if reply["next"] is None:
            parts += ends.finish()
        yield Blocking(partial(_write, writer, parts))
        exported = Exported(
            exported.sessions + sum(part["kind"] == "end" for part in parts),
            exported.messages + sum(part["kind"] == "message" and "alternative_id" not in part for part in parts),
        )
        if progress is not None:
            progress(exported)
        if reply["next"] is None:
            return exported
        after = Json(orjson.dumps(reply["next"]))


def _names_users(scope: Scope, sessions: Sequence[tuple[str | None, str]]) -> bool:
    return scope.identity is None and any(user_id or scope.user_id for user_id, _ in sessions)


def _write(writer: Writer, parts: Iterable[Part]) -> None:
    for part in parts:
        writer.write(part)


# Columns that say where a row is stored, or follow from others.
_NOT_EXPORTED: Final = {"session_key", "user_id", "first_position", "first_token_seconds", "refusals", "unsent"}


def _part(row: Mapping[str, Any]) -> Part:
    kind, columns = row["kind"], row["row"]
    if kind in ("turn", "feedback"):
        columns = {name: value for name, value in columns.items() if name not in _NOT_EXPORTED}
    return {"kind": kind, **columns}
