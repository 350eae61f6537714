"""Export to Google Sheets: worksheets of conversations, messages, usage per day and feedback, brought up to date."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from ..core.arguments import check_callable, check_flag, check_text
from ..core.call import Blocking, Plan
from ..core.rows import read_feedback
from ..errors import InvalidInput, NotConfigured
from ..operations.scope import Scope
from ..operations.sessions import SessionFilter
from ..operations.usage import usage
from ..records import Usage
from .exporting import Exported, export_parts, pages_of_sessions
from .formats.jsonl import dumps
from .formats.tables import CONVERSATION_COLUMNS, MESSAGE_COLUMNS, Flattener
from .parts import Part
from .sheets_table import Table, Written

if TYPE_CHECKING:
    from .sheets_google import Spreadsheet

Worksheet = Literal["conversations", "messages", "usage", "feedback"]
Credentials = Mapping[str, Any] | str | os.PathLike[str]

_MAX_TITLE: Final = 100  # of a worksheet
_MAX_NAME: Final = 2000  # of a spreadsheet, or its URL
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_OID, "langchain_supabase_history.sheets")
_FEEDBACK: Final = ("turn_id", "message_id", "key", "score", "value", "comment", "created_at", "updated_at", "id")
_USAGE: Final = (
    "turns",
    "failed_turns",
    "unmeasured_turns",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "total_cost",
)
_COLUMNS: Final[dict[str, Sequence[str]]] = {
    "conversations": [*CONVERSATION_COLUMNS, "id"],
    "messages": [*(name for name in MESSAGE_COLUMNS if name != "id"), "in_conversation", "id"],
    "usage": ["day", "user_id", *_USAGE, "id"],
    "feedback": ["user_id", "session_id", *_FEEDBACK],
}


@dataclass(frozen=True, slots=True)
class SheetsExported:
    """How much was exported to a spreadsheet, so far or in all.

    Attributes:
        url: The spreadsheet's; None until it has been opened.
        sessions: Those that were read; so for `messages`.
        added: Rows that are new in the spreadsheet.
        updated: Rows that were there, with other values.
        cut: Cells whose text was too long for Google, and was cut.
    """

    url: str | None
    sessions: int
    messages: int
    added: int
    updated: int
    cut: int


class SheetsOptions(SessionFilter, total=False):
    """The options of `export_sheets`; see there."""

    credentials: Credentials | None
    worksheets: Sequence[Worksheet] | Mapping[Worksheet, str]
    create: bool
    share_with: str | Sequence[str]
    query: str | None
    all_users: bool
    session_ids: Sequence[str] | None
    progress: Callable[[SheetsExported], None] | None


def export_sheets(
    scope: Scope,
    spreadsheet: str,
    *,
    credentials: Credentials | None = None,
    worksheets: Sequence[Worksheet] | Mapping[Worksheet, str] = get_args(Worksheet),
    create: bool = False,
    share_with: str | Sequence[str] = (),
    session_ids: Sequence[str] | None = None,
    progress: Callable[[SheetsExported], None] | None = None,
    **filters: Any,
) -> Plan[SheetsExported]:
    """See `Transfer.export_sheets`."""
    check_text(spreadsheet, "spreadsheet", _MAX_NAME)
    titles = _titles(worksheets)
    check_callable(progress, "progress")
    options = {"create": check_flag(create, "create"), "share_with": _addresses(share_with)}
    pages = pages_of_sessions(scope, session_ids, filters)
    writer = SheetsWriter(titles, _opener(credentials, spreadsheet, options))

    def report(exported: Exported) -> None:
        if progress is not None:
            progress(writer.report(exported))

    try:
        exported = yield from export_parts(scope, pages, writer, report)
        if "usage" in titles:
            found = yield from usage(scope, ("day", "user"))
            own = scope.user_id is None and scope.identity is None and not filters.get("all_users")
            yield Blocking(partial(writer.write_usage, [row for row in found if not own or row.user_id is None]))
        yield Blocking(writer.close)
    finally:
        writer.disconnect()
    report(exported)
    return writer.report(exported)


def _titles(worksheets: object) -> dict[str, str]:
    names = get_args(Worksheet)
    if isinstance(worksheets, (str, bytes)) or not isinstance(worksheets, (Sequence, Mapping)) or not worksheets:
        raise InvalidInput(f"worksheets must be a list of some of {', '.join(names)}, or a dict from these to titles.")
    if not all(isinstance(name, str) and name in names for name in worksheets):
        raise InvalidInput(f"worksheets must be some of {', '.join(names)}.")
    if not isinstance(worksheets, Mapping):
        return {name: name for name in worksheets}
    titles = {name: check_text(title, "the title of a worksheet", _MAX_TITLE) for name, title in worksheets.items()}
    if len({title.casefold() for title in titles.values()}) < len(titles):
        raise InvalidInput("worksheets must have titles of their own.")
    return titles


def _addresses(share_with: object) -> Sequence[str]:
    found = [share_with] if isinstance(share_with, str) else share_with
    if not isinstance(found, (list, tuple)) or not all(
        isinstance(address, str) and 3 <= len(address) <= 320 and "@" in address[1:-1] and address.isprintable()
        for address in found
    ):
        raise InvalidInput("share_with must be an e-mail address, or a list of some.")
    return found


def _opener(credentials: Credentials | None, spreadsheet: str, options: Mapping[str, Any]) -> Callable[[], Spreadsheet]:
    try:
        from . import sheets_google
    except ImportError as error:
        raise NotConfigured(
            "Google Sheets needs gspread.", advice="pip install 'langchain_supabase_history[sheets]'"
        ) from error
    sheets_google.id_in_url(spreadsheet)
    account = sheets_google.service_account(credentials)
    return partial(sheets_google.open_spreadsheet, account, spreadsheet, **options)


class SheetsWriter:
    """Writes parts as rows of worksheets; it opens the spreadsheet when the first of them come.

    Args:
        titles: The titles of worksheets, by what is in them.
        opener: Opens the spreadsheet.
    """

    def __init__(self, titles: Mapping[str, str], opener: Callable[[], Spreadsheet]) -> None:
        self._titles, self._opener = titles, opener
        self._written = Written()
        self._url: str | None = None
        self._book: Spreadsheet | None = None
        self._tables: dict[str, Table] = {}
        self._session: Part = {}
        self._conversations, self._messages = Flattener("conversations"), Flattener("messages")

    def report(self, exported: Exported) -> SheetsExported:
        """How much was written, of so much that was read."""
        return SheetsExported(self._url, exported.sessions, exported.messages, **asdict(self._written))

    def write(self, part: Part) -> None:
        """Write the rows that come of the part."""
        self._open()
        if part["kind"] == "session":
            self._session = part
        if part["kind"] == "feedback":
            self._put("feedback", self._feedback(part))
        if (row := self._conversations.take(part)) is not None:
            self._put("conversations", {**row, "id": _id(row["user_id"], row["session_id"])})
        # What was taken out of a conversation may be in the sheet already: its row says that it is no longer in it.
        if (row := self._messages.take({**part, "alternative_id": None})) is not None:
            self._put("messages", {**row, "in_conversation": part.get("alternative_id") is None})

    def write_usage(self, found: Sequence[Usage]) -> None:
        """Write what days used."""
        self._open()
        for row in found:
            sums = {name: getattr(row, name) for name in _USAGE}
            day = str(row.day)
            self._put("usage", {"day": day, "user_id": row.user_id, **sums, "id": _id(row.user_id, day)})

    def close(self) -> None:
        """Write what waits."""
        self._open()
        for table in self._tables.values():
            table.flush()

    def disconnect(self) -> None:
        """Close the connections to Google, at any time."""
        if self._book is not None:
            self._book.close()

    def _open(self) -> None:
        if self._url is not None:
            return
        self._book = book = self._opener()
        empty = book.patiently(book.grids) if book.created else {}
        self._tables = {name: Table(book, title, _COLUMNS[name], self._written) for name, title in self._titles.items()}
        self._url = book.url
        if surplus := [grid.sheet_id for title, grid in empty.items() if title not in self._titles.values()]:
            book.patiently(partial(book.remove, surplus))

    def _put(self, name: str, row: Mapping[str, Any]) -> None:
        if name in self._tables:
            self._tables[name].put(row)

    def _feedback(self, part: Part) -> dict[str, Any]:
        value = read_feedback({"unsent": False, **part}).value
        if value is not None and not isinstance(value, (str, bool, int, float)):
            value = dumps(value).decode()
        owner = {name: self._session[name] for name in ("user_id", "session_id")}
        return {**part, **owner, "value": value}


def _id(user_id: str | None, name: str) -> str:
    """The id of what has none in the database: always the same one."""
    return str(uuid.uuid5(_NAMESPACE, f"{user_id or ''}\x00{name}"))
