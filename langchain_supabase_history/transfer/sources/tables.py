"""Tables that other libraries keep conversations in, in any PostgreSQL database.

===================== =========================================================================================
`messages-table`      langchain-postgres, the two classes of langchain-community, LangChain.js, n8n: a row a message
`openai-agents`       `SQLAlchemySession` of OpenAI's Agents SDK: a row an item
`langgraph`           `PostgresSaver`: the messages of each thread's last checkpoint
`conversations-table` a row a conversation, with its messages as JSON
===================== =========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from ...core.values import loads
from ...errors import InvalidInput, NotConfigured, NotFound, Unavailable
from ..parts import Part, Unreadable
from .building import Found, FoundConversation, parts_of
from .chat_messages import NotAMessage, read_messages
from .documents import read_saves
from .responses import read_items

TABLES: Final[dict[str, str | None]] = {
    "messages-table": None,
    "openai-agents": "agent_messages",
    "langgraph": "checkpoints",
    "conversations-table": "conversations",
}
_ROWS_AT_A_TIME: Final = 500
_Connection = psycopg.Connection[dict[str, Any]]


def read_table(conninfo: str, table: str | None, format: str | None) -> Iterator[Part | Unreadable]:
    """The parts of all conversations in a table.

    Args:
        conninfo: The database's connection string.
        table: The table's name, with its schema where that is not on the path; None for the format's own.
        format: One of `TABLES`; None to recognise it by the table's columns.

    Raises:
        InvalidInput: The table has other columns than such a table has.
        NotFound: There is no such table.
        NotConfigured: A package that is needed to read it is not installed.
        Unavailable: The database cannot be reached.
    """
    with _connected(conninfo) as conn:
        name = table or (TABLES[format] if format else None)
        if name is None:
            raise InvalidInput("Name the table that the conversations are in.")
        columns = _columns(conn, name)
        kind = format or _kind_of(columns, name)
        yield from _READERS[kind](conn, Identifier(*name.split(".")), columns)


@contextmanager
def _connected(conninfo: str) -> Iterator[_Connection]:
    try:
        with psycopg.connect(conninfo, row_factory=dict_row) as conn:
            conn.execute("set transaction read only isolation level repeatable read")
            yield conn
    except psycopg.OperationalError as error:
        raise Unavailable("The database that holds the table could not be reached, or the connection broke.") from error
    except psycopg.Error as error:
        primary = error.diag.message_primary or type(error).__name__
        raise InvalidInput(f"The table cannot be read: {primary}.") from error


def _columns(conn: _Connection, table: str) -> set[str]:
    found = conn.execute(
        "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
        [Identifier(*table.split(".")).as_string(conn)],
    ).fetchall()
    if not found:
        raise NotFound(
            f"There is no table {table!r} in that database, or the login may not see it.",
            advice="Name it with its schema where that is not on the login's path.",
        )
    return {row["attname"] for row in found}


def _kind_of(columns: set[str], table: str) -> str:
    if {"session_id", "message_data"} <= columns:
        return "openai-agents"
    if {"session_id", "message"} <= columns:
        return "messages-table"
    if {"thread_id", "checkpoint_id"} <= columns:
        return "langgraph"
    if {"conversation_id", "messages"} <= columns:
        return "conversations-table"
    raise InvalidInput(f"The table {table!r} is none that is known.", advice="Its columns are not those of any format.")


def _rows(conn: _Connection, query: Any) -> Iterator[dict[str, Any]]:
    with conn.cursor("import", row_factory=dict_row) as cursor:  # on the server: the table may be large
        cursor.itersize = _ROWS_AT_A_TIME
        cursor.execute(query)
        yield from cursor


def _by_session(
    conn: _Connection, table: Identifier, columns: set[str], content: str, source: str, read: Callable[[Any], Any]
) -> Iterator[Part | Unreadable]:
    """A row a message, of sessions: each session's rows in the order of their ids."""
    at = Identifier("created_at") if "created_at" in columns else SQL("null")
    query = SQL(
        "select id::text as id, session_id::text as session_id, {content}::text as content, {at} as created_at "
        "from {table} order by session_id, {table}.id"
    ).format(content=Identifier(content), at=at, table=table)
    for session_id, rows in groupby(_rows(conn, query), key=lambda row: row["session_id"]):
        try:
            yield from parts_of(FoundConversation(source, session_id, read(list(rows))))
        except NotAMessage as error:
            yield Unreadable(f"session {session_id[:100]!r}", f"it holds {error}")


def _messages(rows: Sequence[dict[str, Any]]) -> list[Found]:
    found = []
    for row in rows:
        for n, message in enumerate(read_messages([_json(row)])):
            found.append(Found(message, f"{row['id']}:{n}", _time(row)))
    return found


def _items(rows: Sequence[dict[str, Any]]) -> list[Found]:
    at = _time(rows[0])
    return [Found(message, f"item:{n}", at) for n, message in enumerate(read_items([_json(row) for row in rows]))]


def _json(row: dict[str, Any]) -> Any:
    try:
        return loads(row["content"].encode())
    except (ValueError, RecursionError):
        raise NotAMessage(f"a row {row['id']} that is no JSON") from None


def _time(row: dict[str, Any]) -> Any:
    at = row["created_at"]
    return at if at is None or at.tzinfo else at.astimezone()


def _conversations(conn: _Connection, table: Identifier, columns: set[str]) -> Iterator[Part | Unreadable]:
    """A row a save, the latest of each conversation first."""
    whose = [Identifier(name) for name in ("user_id", "conversation_id") if name in columns]
    when = [Identifier(name) for name in ("timestamp", "created_at") if name in columns]
    query = SQL("select jsonb_build_array({})::text as whose, to_jsonb(c)::text as row from {} c order by {}").format(
        SQL(", ").join(whose), table, SQL(", ").join([SQL("1"), *(SQL("{} desc nulls last").format(at) for at in when)])
    )
    for _, rows in groupby(_rows(conn, query), key=lambda row: row["whose"]):
        first = next(rows)
        where = f"conversation {loads(first['row'].encode()).get('conversation_id')!r}"
        yield from read_saves((loads(row["row"].encode()) for row in chain([first], rows)), where)


def _langgraph(conn: _Connection, table: Identifier, columns: set[str]) -> Iterator[Part | Unreadable]:
    try:
        from langgraph.checkpoint.postgres import PostgresSaver
    except ImportError as error:
        raise NotConfigured(
            "Checkpoints are read by langgraph-checkpoint-postgres.", advice="pip install langgraph-checkpoint-postgres"
        ) from error
    saver = PostgresSaver(conn)  # it reads them with a cursor of its own, that is, with what their version asks for
    query = SQL("select distinct thread_id from {} where checkpoint_ns = '' order by 1").format(table)
    for row in conn.execute(query).fetchall():
        thread = str(row["thread_id"])
        found = saver.get_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": ""}})
        messages = found.checkpoint["channel_values"].get("messages") if found else None
        if not isinstance(messages, list):
            yield Unreadable(f"thread {thread[:100]!r}", "its state has no list of messages")
            continue
        keyed = [Found(message, str(message.id) if message.id else None) for message in messages]
        yield from parts_of(FoundConversation("langgraph", thread, keyed))


_READERS: Final[dict[str, Callable[[_Connection, Identifier, set[str]], Iterator[Part | Unreadable]]]] = {
    "messages-table": lambda conn, table, columns: _by_session(
        conn, table, columns, "message", "messages-table", _messages
    ),
    "openai-agents": lambda conn, table, columns: _by_session(
        conn, table, columns, "message_data", "openai-agents", _items
    ),
    "langgraph": _langgraph,
    "conversations-table": _conversations,
}
