"""Deadlines hold however the other side answers, and what ends an operation early is said."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import Iterator

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from supabase import acreate_client

from langchain_supabase_history import HistoryStore, NotConfigured, StoreClosed, Unavailable
from tests import servers
from tests.drivers.test_drivers import QA, token


@pytest.mark.parametrize("is_async", [False, True])
def test_operations_at_once_wait_for_a_first_connection_no_longer_than_their_deadline(
    is_async: bool, session: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        url = f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/postgres"
        with HistoryStore.from_postgres(url, deadline=2) as store:
            started = time.monotonic()
            took: list[float] = []

            def load() -> None:
                with pytest.raises(Unavailable):
                    asyncio.run(store.aload(session)) if is_async else store.load(session)
                took.append(time.monotonic() - started)

            threads = [threading.Thread(target=load) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert max(took) < 6, took  # not one deadline after the other, which is 8


@contextlib.contextmanager
def dripping(body: bytes, pause: float) -> Iterator[str]:
    """A web server that answers byte by byte: its URL."""

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            for n in range(len(body)):
                client.sendall(body[n : n + 1])
                time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake the thread that waits in accept
    thread.join()


@pytest.mark.parametrize("is_async", [False, True])
def test_an_answer_that_drips_is_given_up_at_the_deadline(session: str, is_async: bool) -> None:
    with dripping(b" " * 100, 0.05) as url, HistoryStore.from_supabase(url, "sb_secret_x", deadline=1) as store:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            asyncio.run(store.aload(session)) if is_async else store.load(session)
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("body", [b"{}", b"[]", b'"page"', b"7", b'{"header": {}, "messages": [{}]}', b"<html>"])
def test_an_answer_that_is_not_our_functions(session: str, body: bytes) -> None:
    with (
        dripping(body, 0) as url,
        HistoryStore.from_supabase(url, "sb_secret_x", deadline=1) as store,
        pytest.raises(NotConfigured, match="no Data API at this address"),
    ):
        store.load(session)


def test_a_locked_session_is_said_to_answer_too_late(database: str) -> None:
    with HistoryStore.from_postgres(database, deadline=1) as store:
        store.append("s", QA)
        with psycopg.connect(database) as conn:
            conn.execute("select from chat_history_sessions for update")
            with pytest.raises(Unavailable, match="did not answer in time"):
                store.append("s", QA)


def test_a_store_closed_under_an_async_operation_says_so(database: str) -> None:
    """Not a bare cancellation, which a task group would take for a normal end."""

    async def main(store: HistoryStore) -> None:
        with psycopg.connect(database) as conn:
            conn.execute("select from chat_history_sessions for update")
            waits = asyncio.ensure_future(store.aappend("s", QA))
            await asyncio.sleep(0.3)
            await store.aclose()
            with pytest.raises(StoreClosed):
                await waits

    with HistoryStore.from_postgres(database) as store:
        store.append("s", QA)
        asyncio.run(main(store))
        assert len(store.load("s")) == 2


@pytest.mark.parametrize("what", ["token", "keys"])
def test_a_slow_token_holds_up_nobody_else(shared_database: str, session: str, what: str) -> None:
    def slow_token() -> str:
        time.sleep(1)
        return token(sub=session)

    with dripping(b'{"keys": []}', 0.1) as url:
        options = {"jwks_url": url} if what == "keys" else {"jwt_secret": servers.JWT_SECRET}
        with HistoryStore.from_postgres(shared_database, **options) as store:  # type: ignore[arg-type]
            store.load(session)

            async def main() -> float:
                await store.aload(session)
                user = store.as_user(
                    slow_token if what == "token" else jwt.encode({}, ec.generate_private_key(ec.SECP256R1()), "ES256")
                )
                slow = asyncio.ensure_future(user.aload(session))
                await asyncio.sleep(0.1)
                started = time.monotonic()
                await store.aload(session)
                took = time.monotonic() - started
                await asyncio.wait([slow])
                slow.exception()
                return took

            assert asyncio.run(main()) < 0.5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the client is left open in its loop
def test_an_async_client_of_a_loop_that_has_ended_is_told(data_api: servers.Lite, session: str) -> None:
    async def make() -> HistoryStore:
        store = HistoryStore.from_client(async_client=await acreate_client(data_api.url, servers.SECRET_KEY))
        assert await store.aload(session) == []
        return store

    store = asyncio.run(make())
    with pytest.raises(NotConfigured, match="event loop that has ended"):
        asyncio.run(store.aload(session))
    del store
    gc.collect()


def test_operations_that_are_cancelled_leave_the_pool_whole(shared_database: str, session: str) -> None:
    async def main() -> None:
        async with HistoryStore.from_postgres(shared_database, pool_size=2, deadline=5) as store:
            for round_ in range(40):
                tasks = [asyncio.ensure_future(store.aload(session)) for _ in range(4)]
                for _ in range(round_ % 8):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert await asyncio.gather(*(store.aload(session) for _ in range(8))) == [[]] * 8

    asyncio.run(main())
    gc.collect()
