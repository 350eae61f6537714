"""The application's own pools, and its own transactions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import psycopg_pool
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from psycopg.rows import dict_row

from langchain_supabase_history import (
    Conflict,
    Forbidden,
    HistoryStore,
    InvalidInput,
    NotConfigured,
    Unavailable,
)
from tests import servers
from tests.drivers.test_drivers import token as token_of


def token(user_id: str) -> str:
    return token_of(servers.JWT_SECRET, sub=user_id)


QA = [HumanMessage("question"), AIMessage("answer")]
SAME_ID: dict[str, Any] = {"ids": [str(uuid.uuid4())]}  # with other content, it is a conflict
SETTINGS: list[dict[str, Any]] = [
    {"autocommit": True, "prepare_threshold": None},
    {},
    {"row_factory": dict_row, "prepare_threshold": 0},
    {"cursor_factory": psycopg.ClientCursor},
]


def async_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | ({"cursor_factory": psycopg.AsyncClientCursor} if "cursor_factory" in settings else {})


@pytest.fixture(params=SETTINGS, ids=["autocommit", "default", "dict_row", "client cursor"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


@pytest.fixture
def pool(shared_database: str, settings: dict[str, Any]) -> Iterator[psycopg_pool.ConnectionPool[Any]]:
    with psycopg_pool.ConnectionPool(shared_database, min_size=1, max_size=2, kwargs=settings) as pool:
        yield pool


@asynccontextmanager
async def opened(conninfo: str, settings: dict[str, Any]) -> AsyncIterator[psycopg_pool.AsyncConnectionPool[Any]]:
    async with psycopg_pool.AsyncConnectionPool(
        conninfo, min_size=1, max_size=2, open=False, kwargs=async_settings(settings)
    ) as pool:
        yield pool


def test_a_pool_of_the_applications(pool: psycopg_pool.ConnectionPool[Any], session: str) -> None:
    store = HistoryStore.from_pool(pool)
    assert len(store.append(session, QA)) == 2
    assert [m.text for m in store.load(session)] == ["question", "answer"]
    store.append(session, [HumanMessage("one")], **SAME_ID)
    assert [m.text for m in asyncio.run(store.aload(session))] == ["question", "answer", "one"]  # in a thread
    with pytest.raises(Conflict):
        store.append(session, [HumanMessage("two")], **SAME_ID)
    with pool.connection() as conn:  # as it was, whatever ran on it
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        row: Any = conn.execute("select current_setting('statement_timeout') as s, current_user as u").fetchone()
        assert (list(row.values()) if isinstance(row, dict) else list(row)) == ["0", "postgres"]
    store.close()
    assert not pool.closed
    assert store.pool_stats()["sync"]["pool_max"] == 2
    assert "hunter2" not in repr(store)


def test_an_async_pool_of_the_applications(shared_database: str, settings: dict[str, Any], session: str) -> None:
    async def main() -> None:
        async with opened(shared_database, settings) as pool:
            async with HistoryStore.from_pool(async_pool=pool) as store:
                await asyncio.gather(*(store.aappend(session, QA) for _ in range(5)))
                assert len(await store.aload(session)) == 10
                await store.aappend(session, [HumanMessage("one")], **SAME_ID)
                with pytest.raises(Conflict):
                    await store.aappend(session, [HumanMessage("two")], **SAME_ID)
                with pytest.raises(NotConfigured, match="async pool only"):
                    store.load(session)
            assert not pool.closed

    asyncio.run(main())


def test_users_of_an_own_pool(pool: psycopg_pool.ConnectionPool[Any], session: str) -> None:
    store = HistoryStore.from_pool(pool, jwt_secret=servers.JWT_SECRET)
    ada, bob = store.as_user(token("ada")), store.as_user(token("bob"))
    ada.append(session, QA)
    assert len(ada.load(session)) == 2
    assert bob.load(session) == []
    with pytest.raises(Forbidden):
        store.for_user("ada").as_user(token("bob")).load(session)
    assert len(store.for_user("ada").load(session)) == 2


def test_a_statement_of_an_own_pool_ends_at_the_deadline(shared_database: str, session: str) -> None:
    with (
        psycopg_pool.ConnectionPool(shared_database, min_size=1, max_size=2) as pool,
        psycopg.connect(shared_database) as other,
    ):
        store = HistoryStore.from_pool(pool, deadline=1)
        store.append(session, QA)
        other.execute("select from chat_history_sessions where session_id = %s for update", [session])
        with pytest.raises(Unavailable):
            store.append(session, QA)
        other.rollback()
        assert len(store.load(session)) == 2


def test_dead_connections_of_an_own_pool_are_replaced(shared_database: str, session: str) -> None:
    with psycopg_pool.ConnectionPool(shared_database, min_size=2, max_size=2) as pool:
        pool.wait()
        store = HistoryStore.from_pool(pool)
        with psycopg.connect(shared_database, autocommit=True) as other:
            pids = []
            with pool.connection() as first, pool.connection() as second:
                pids = [first.info.backend_pid, second.info.backend_pid]
            for pid in pids:
                other.execute("select pg_terminate_backend(%s, 5000)", [pid])
        assert len(store.append(session, QA)) == 2


def test_what_is_no_open_pool_is_refused(shared_database: str) -> None:
    closed = psycopg_pool.ConnectionPool(shared_database, open=False)
    with pytest.raises(NotConfigured, match="not open"):
        HistoryStore.from_pool(closed).load("s")
    for given in ((), ("postgresql://localhost/x",), (None, closed)):
        with pytest.raises(NotConfigured, match="from_pool"):
            HistoryStore.from_pool(*given)
    with pytest.raises(NotConfigured, match="sync pool"):
        HistoryStore.from_pool(None, closed, outbox="x")


# --- the application's transactions


@pytest.fixture
def store(postgres_store: HistoryStore) -> HistoryStore:
    return postgres_store


@pytest.mark.parametrize("autocommit", [False, True])
def test_an_append_is_committed_and_rolled_back_with_the_application(
    store: HistoryStore, shared_database: str, session: str, autocommit: bool
) -> None:
    with psycopg.connect(shared_database, autocommit=autocommit, row_factory=dict_row) as conn:
        for end in ("rollback", "commit"):
            with conn.transaction(force_rollback=end == "rollback"):
                joined = store.in_transaction(conn)
                joined.append(session, QA)
                assert len(joined.load(session)) == 2  # seen within
                assert store.load(session) == []
        if not autocommit:
            conn.commit()
        assert len(store.load(session)) == 2
        with pytest.raises(InvalidInput, match="as_user"), conn.transaction():
            store.as_user(token("ada")).in_transaction(conn).load(session)


def test_within_a_transaction_a_user_and_a_chain_of_their_own(
    store: HistoryStore, shared_database: str, session: str
) -> None:
    with psycopg.connect(shared_database) as conn:
        joined = store.in_transaction(conn).for_user("ada")
        chain = joined.with_history(RunnableLambda(lambda messages: f"saw {len(messages)}"))
        config: Any = {"configurable": {"session_id": session}}
        assert chain.invoke("hello", config) == "saw 1"
        assert store.for_user("ada").load(session) == []
        conn.commit()
    assert [m.text for m in store.for_user("ada").load(session)] == ["hello", "saw 1"]


def test_async_within_a_transaction(store: HistoryStore, shared_database: str, session: str) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(shared_database) as conn:
            joined = store.in_transaction(conn)
            await joined.aappend(session, QA)
            with pytest.raises(InvalidInput, match="async methods"):
                joined.load(session)
            await conn.rollback()
        assert await store.aload(session) == []
        with psycopg.connect(shared_database) as sync:
            await store.in_transaction(sync).aappend(session, QA)
        assert len(await store.aload(session)) == 2

    asyncio.run(main())


def test_what_fails_within_a_transaction_is_not_tried_again(
    store: HistoryStore, shared_database: str, session: str
) -> None:
    with psycopg.connect(shared_database) as conn:
        joined = store.in_transaction(conn)
        joined.append(session, [HumanMessage("one")], **SAME_ID)
        with pytest.raises(Conflict):
            joined.append(session, [HumanMessage("two")], **SAME_ID)
        with pytest.raises(InvalidInput, match="failed already"):
            joined.load(session)
        conn.rollback()
        with psycopg.connect(shared_database, autocommit=True) as other:
            joined.append(session, QA)
            other.execute("select pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
        with pytest.raises(Unavailable, match="run the whole of it again"):
            joined.append(session, QA)
    assert store.load(session) == []


def test_a_connection_that_is_in_no_transaction_is_refused(store: HistoryStore, shared_database: str) -> None:
    with psycopg.connect(shared_database, autocommit=True) as conn, pytest.raises(InvalidInput, match="autocommit"):
        store.in_transaction(conn).load("s")
    with pytest.raises(InvalidInput, match="driver_connection"):
        store.in_transaction("postgresql://localhost/x")


def test_a_transaction_of_sqlalchemys(store: HistoryStore, shared_database: str, session: str) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(shared_database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as conn:
        conn.execute(sqlalchemy.text("select 1"))
        store.in_transaction(conn.connection.driver_connection).append(session, QA)
        conn.rollback()
    assert store.load(session) == []
    engine.dispose()
