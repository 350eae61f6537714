"""The ways to keep a conversation that are measured, and the messages they are given."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Protocol

import psycopg
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_supabase_history import HistoryStore, migrate
from langchain_supabase_history.core.messages import encode_message
from tests import servers

LIBRARY: Final = "library"
RAW: Final = "raw psycopg"
POSTGRES_PEER: Final = "langchain-postgres"
SQL_PEER: Final = "community SQL"
DATA_API: Final = "library, Data API"

# --- messages -----------------------------------------------------------------------------------------------------

_QUESTION: Final = "How do I renew a passport that expired two years ago while I was living abroad? "
_ANSWER: Final = "You apply in person, with the old passport, two photographs and a proof of where you live now. "


def turn(number: int) -> list[BaseMessage]:
    """A question and its answer, of the size and with the fields that a chat model's have."""
    return [HumanMessage(f"{_QUESTION}({number})"), _answer(number)]


def tool_turn(number: int) -> list[BaseMessage]:
    """A question, the call of a tool, its result and the answer."""
    call = {
        "name": "search",
        "args": {"query": "expired passport", "limit": 3},
        "id": f"call_{number}",
        "type": "tool_call",
    }
    calling = _answer(number)
    calling.content, calling.tool_calls = "", [call]  # type: ignore[list-item]
    result = ToolMessage(_ANSWER * 3, tool_call_id=f"call_{number}", name="search")
    return [HumanMessage(f"{_QUESTION}({number})"), calling, result, _answer(number)]


def _answer(number: int) -> AIMessage:
    return AIMessage(
        _ANSWER * 4,
        id=f"lc_run--{uuid.UUID(int=number)}-0",
        response_metadata={"model_name": "a-model", "finish_reason": "stop", "service_tier": "default"},
        usage_metadata={"input_tokens": 900, "output_tokens": 90, "total_tokens": 990},
    )


def conversation(size: int) -> list[BaseMessage]:
    """The first `size` messages of a conversation of plain turns."""
    return [message for number in range((size + 1) // 2) for message in turn(number)][:size]


# --- contenders -----------------------------------------------------------------------------------------------------


class Contender(Protocol):
    """One way to keep a conversation. Only `append` and `load` are timed."""

    def prepare(self, messages: Sequence[BaseMessage]) -> Any:
        """The messages as `append` takes them."""

    def append(self, session: str, messages: Any) -> None:
        """Store them durably."""

    def load(self, session: str) -> Sequence[Any]:
        """All of a session."""

    def rest(self) -> None:
        """Leave nothing behind that would slow the others down."""


class Library:
    """This library: `store.append` and `store.load`."""

    def __init__(self, store: HistoryStore) -> None:
        self.store = store

    def prepare(self, messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
        return messages

    def append(self, session: str, messages: Any) -> None:
        self.store.append(session, messages)

    def load(self, session: str) -> Sequence[Any]:
        return self.store.load(session)

    def rest(self) -> None:
        pass


class Raw:
    """One statement by hand, in autocommit, of JSON made before the clock starts and left unread after it stops."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        conn.execute("""create table raw_messages (id bigint generated always as identity primary key,
                          session_id text not null, type text not null, data json not null,
                          created_at timestamptz not null default now())""")
        conn.execute("create index on raw_messages (session_id, id)")

    def prepare(self, messages: Sequence[BaseMessage]) -> list[tuple[str, str]]:
        return [(encoded.type, encoded.data.decode()) for encoded in map(encode_message, messages)]

    def append(self, session: str, messages: Any) -> None:
        rows = ", ".join(["(%s, %s, %s)"] * len(messages))
        values = [value for kind, data in messages for value in (session, kind, data)]
        self.conn.execute(f"insert into raw_messages (session_id, type, data) values {rows}".encode(), values)

    def load(self, session: str) -> Sequence[Any]:
        query = "select type, data::text from raw_messages where session_id = %s order by id"
        return self.conn.execute(query, [session]).fetchall()

    def rest(self) -> None:
        pass


class PostgresPeer:
    """langchain-postgres, as its documentation says: one history object a session, over one connection."""

    TABLE: Final = "langchain_postgres_messages"

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        from langchain_postgres import PostgresChatMessageHistory

        self.conn = conn
        self.make = PostgresChatMessageHistory
        PostgresChatMessageHistory.create_tables(conn, self.TABLE)

    def prepare(self, messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
        return messages

    def append(self, session: str, messages: Any) -> None:
        self.make(self.TABLE, session, sync_connection=self.conn).add_messages(messages)

    def load(self, session: str) -> Sequence[Any]:
        return self.make(self.TABLE, session, sync_connection=self.conn).messages

    def rest(self) -> None:
        self.conn.rollback()  # a read leaves its transaction open, and old row versions pile up for all


class SqlPeer:
    """langchain-community's SQLChatMessageHistory, with an engine that is kept."""

    def __init__(self, engine: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from langchain_community.chat_message_histories import SQLChatMessageHistory

        self.engine = engine
        self.histories: dict[
            str, Any
        ] = {}  # the constructor looks the table up in the catalogue: it is not timed twice
        self.make = SQLChatMessageHistory

    def _history(self, session: str) -> Any:
        if session not in self.histories:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.histories[session] = self.make(session, connection=self.engine)
        return self.histories[session]

    def prepare(self, messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
        return messages

    def append(self, session: str, messages: Any) -> None:
        self._history(session).add_messages(messages)

    def load(self, session: str) -> Sequence[Any]:
        found: Sequence[Any] = self._history(session).messages
        return found

    def rest(self) -> None:
        pass


@contextmanager
def contenders(server: servers.Postgres, data_api: bool) -> Iterator[dict[str, Contender]]:
    """All of them, ready, in one database."""
    from sqlalchemy import create_engine

    url = server.url(server.create_database(name="bench"))
    migrate(url)
    with ExitStack() as stack:
        found: dict[str, Contender] = {
            LIBRARY: Library(stack.enter_context(HistoryStore.from_postgres(url))),
            RAW: Raw(stack.enter_context(psycopg.connect(url, autocommit=True))),
            POSTGRES_PEER: PostgresPeer(stack.enter_context(psycopg.connect(url))),
        }
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        stack.callback(engine.dispose)
        found[SQL_PEER] = SqlPeer(engine)
        if data_api:
            api = stack.enter_context(servers.lite(url))
            store = HistoryStore.from_supabase(api.url, servers.SECRET_KEY, deadline=60)
            found[DATA_API] = Library(stack.enter_context(store))
        yield found
