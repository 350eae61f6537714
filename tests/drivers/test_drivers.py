"""Round trips, pools, threads, event loops, forks, clients and keys."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from psycopg.conninfo import conninfo_to_dict

from langchain_supabase_history import (
    Forbidden,
    HistoryStore,
    InvalidInput,
    NotConfigured,
    StoreClosed,
    Unavailable,
)
from tests import servers
from tests.proxy import proxy

QA = [HumanMessage("question"), AIMessage("answer")]
EXPIRED = {"sub": "u", "aud": "authenticated", "exp": 1}


def token(secret: str = servers.JWT_SECRET, algorithm: str = "HS256", **claims: object) -> str:
    base = {"sub": "ada", "aud": "authenticated", "role": "authenticated", "exp": int(time.time()) + 600}
    return jwt.encode({**base, **claims}, secret, algorithm=algorithm)


# --- round trips


def turn(store: HistoryStore, name: str) -> None:
    history = store.get_session_history(name)
    assert isinstance(history.messages, list)
    assert history.messages is not None  # the wrapper's second look
    history.add_messages(QA)


async def aturn(store: HistoryStore, name: str) -> None:
    history = store.get_session_history(name)
    await history.aget_messages()
    await history.aget_messages()
    await history.aadd_messages(QA)


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_turn_is_two_waits_over_psycopg(
    pg: servers.Postgres, shared_database: str, session: str, is_async: bool, user: bool
) -> None:
    with proxy(pg.port) as wire:
        conninfo = shared_database.replace(f":{pg.port}/", f":{wire.port}/")
        with HistoryStore.from_postgres(conninfo, pool_size=1, jwt_secret=servers.JWT_SECRET) as store:
            view = store.as_user(token(sub=session)) if user else store
            run: Callable[[], object] = (
                (lambda: asyncio.run(aturn(view, session))) if is_async else (lambda: turn(view, session))
            )
            run()  # connects
            for _ in range(3):
                before = wire.trips
                run()
                assert wire.trips - before == 2
            assert wire.connections == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_a_turn_is_two_requests_over_the_data_api(data_api: servers.Lite, session: str, is_async: bool) -> None:
    with (
        proxy(int(data_api.url.rsplit(":", 1)[1])) as wire,
        HistoryStore.from_supabase(f"http://127.0.0.1:{wire.port}", servers.SECRET_KEY) as store,
    ):
        for _ in range(3):
            before = wire.trips
            asyncio.run(aturn(store, session)) if is_async else turn(store, session)
            assert wire.trips - before == 2
        assert wire.connections == 1  # kept alive


# --- pools, threads, loops


def test_200_event_loops_one_after_the_other(shared_database: str, session: str) -> None:
    async def several(store: HistoryStore) -> None:
        await asyncio.gather(*(store.aload(session) for _ in range(8)), store.aappend(session, QA))

    name = f"loops_{uuid.uuid4().hex[:8]}"
    before = {t for t in threading.enumerate() if t.name == "langchain-supabase-history"}
    with HistoryStore.from_postgres(f"{shared_database}?application_name={name}", pool_size=4) as store:
        for _ in range(200):
            asyncio.run(several(store))
        with psycopg.connect(shared_database) as conn:
            row = conn.execute("select count(*) from pg_stat_activity where application_name = %s", [name]).fetchone()
        assert row is not None
        assert 1 <= row[0] <= 4
        assert len(store.load(session)) == 400
    assert {t for t in threading.enumerate() if t.name == "langchain-supabase-history"} <= before


def test_one_store_serves_many_threads(store: HistoryStore, session: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: store.append(session, [HumanMessage(str(n))]), range(64)))
    assert sorted(int(m.text) for m in store.load(session)) == list(range(64))


def test_close_twice_from_anywhere_and_use_again(shared_database: str, session: str) -> None:
    store = HistoryStore.from_postgres(shared_database)
    store.append(session, QA)

    async def inside() -> None:
        assert len(await store.aload(session)) == 2
        await store.aclose()
        await store.aclose()
        store.close()
        assert len(await store.aload(session)) == 2

    asyncio.run(inside())
    thread = threading.Thread(target=store.close)
    thread.start()
    thread.join()
    assert len(store.load(session)) == 2
    store.close()
    asyncio.run(store.aclose())


def test_a_store_closed_under_an_operation_says_so(shared_database: str, session: str) -> None:
    store = HistoryStore.from_postgres(shared_database, pool_size=1)
    store.append(session, QA)
    with psycopg.connect(shared_database) as blocker:
        blocker.execute("lock table chat_history_sessions")
        told: list[BaseException] = []

        def wait() -> None:
            try:
                store.append(session, QA)  # holds the only connection
            except Exception as error:
                told.append(error)

        threads = [threading.Thread(target=wait) for _ in range(2)]  # one waits for the lock, one for a connection
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        store.close()
        blocker.rollback()
        for thread in threads:
            thread.join(20)
    assert [type(error) for error in told] == [StoreClosed]
    store.close()


def test_a_forked_child_works_and_does_not_harm_its_parent(shared_database: str, session: str) -> None:
    script = f"""
import asyncio, os, sys
from langchain_core.messages import HumanMessage
from langchain_supabase_history import HistoryStore
with HistoryStore.from_postgres({shared_database!r}) as store:
    store.append({session!r}, [HumanMessage("parent")])
    asyncio.run(store.aload({session!r}))
    pids = []
    for n in range(3):
        pid = os.fork()
        if pid == 0:
            store.append({session!r}, [HumanMessage(f"child {{n}}")])
            assert len(asyncio.run(store.aload({session!r}))) >= 2
            if n == 0:
                store.close()
            sys.exit(0)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    for _ in range(5):
        store.append({session!r}, [HumanMessage("parent")])
        asyncio.run(store.aload({session!r}))
    print(len(store.load({session!r})))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("9\n", "", 0)


def test_a_store_that_is_never_closed_leaves_a_clean_exit(shared_database: str, data_api: servers.Lite) -> None:
    script = f"""
import asyncio
from langchain_supabase_history import HistoryStore
for store in (HistoryStore.from_postgres({shared_database!r}),
              HistoryStore.from_supabase({data_api.url!r}, {servers.SECRET_KEY!r})):
    store.load("s")
    asyncio.run(store.aload("s"))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_store_that_is_dropped_leaves_no_connection(shared_database: str) -> None:
    name = f"dropped_{uuid.uuid4().hex[:8]}"
    store = HistoryStore.from_postgres(f"{shared_database}?application_name={name}")
    store.load("s")
    asyncio.run(store.aload("s"))
    del store  # without close
    gc.collect()
    end = time.monotonic() + 5
    with psycopg.connect(shared_database, autocommit=True) as conn:
        while conn.execute("select from pg_stat_activity where application_name = %s", [name]).fetchone():
            assert time.monotonic() < end
            time.sleep(0.05)


def test_everything_passes_through_a_transaction_pooler(
    shared_database: str, bouncer: Callable[[str], str], session: str
) -> None:
    with HistoryStore.from_postgres(bouncer(shared_database), jwt_secret=servers.JWT_SECRET) as store:
        ada = store.as_user(token(sub=session))
        for view in (store, ada):
            view.append(session, QA)
            assert view.load(session) == QA
            assert asyncio.run(view.aload(session)) == QA
        # The settings of a user's transaction must not stay on the pooled server connection.
        for _ in range(30):
            assert len(ada.load(session)) == 2
            assert store.session(session).user_id is None


# --- failures


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_no_transaction_and_the_store_usable(ctrl_c: None, shared_database: str, session: str) -> None:
    name = f"ctrlc_{uuid.uuid4().hex[:8]}"
    with HistoryStore.from_postgres(f"{shared_database}?application_name={name}") as store:
        store.append(session, QA)
        with psycopg.connect(shared_database) as blocker:
            blocker.execute("lock table chat_history_sessions")
            timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                store.append(session, QA)
            blocker.rollback()
        assert len(store.load(session)) == 2
        with psycopg.connect(shared_database) as conn:
            row = conn.execute(
                "select count(*) from pg_stat_activity where application_name = %s and state <> 'idle'", [name]
            )
            assert row.fetchone() == (0,)


@pytest.mark.parametrize("user", [False, True])
def test_a_cancelled_task_leaves_no_transaction(shared_database: str, session: str, user: bool) -> None:
    name = f"cancel_{uuid.uuid4().hex[:8]}"
    with HistoryStore.from_postgres(f"{shared_database}?application_name={name}", pool_size=2) as base:
        store = base.as_user(claims={"sub": session}) if user else base

        async def main() -> None:
            await store.aappend(session, QA)
            with psycopg.connect(shared_database) as blocker:
                blocker.execute("lock table chat_history_sessions")
                for _ in range(4):
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(store.aappend(session, QA), 0.2)
                await asyncio.sleep(0.5)  # the caller does not wait for the server to hear of it
            assert len(await store.aload(session)) == 2

        asyncio.run(main())
        with psycopg.connect(shared_database) as conn:
            row = conn.execute(
                "select count(*) from pg_stat_activity where application_name = %s and state <> 'idle'", [name]
            )
            assert row.fetchone() == (0,)


def test_a_dead_pooled_connection_is_normal(pg: servers.Postgres, shared_database: str, session: str) -> None:
    with proxy(pg.port) as wire:
        conninfo = shared_database.replace(f":{pg.port}/", f":{wire.port}/")
        with HistoryStore.from_postgres(conninfo, pool_size=8) as store:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: store.load(session), range(32)))
            for _ in range(3):
                wire.drop_all()
                store.append(session, QA)
                asyncio.run(store.aload(session))
                wire.drop_all()
                asyncio.run(store.aappend(session, QA))
            assert len(store.load(session)) == 12


@pytest.mark.parametrize("how", ["refused", "blackhole"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", ["psycopg", "data-api"])
def test_an_unreachable_database_is_unavailable_within_the_deadline(kind: str, is_async: bool, how: str) -> None:
    port = servers.free_port()
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and says nothing
        port = port if how == "refused" else deaf.getsockname()[1]
        store = (
            HistoryStore.from_postgres(f"postgresql://postgres@127.0.0.1:{port}/x", deadline=1)
            if kind == "psycopg"
            else HistoryStore.from_supabase(f"http://127.0.0.1:{port}", servers.SECRET_KEY, deadline=1)
        )
        started = time.monotonic()
        with store, pytest.raises(Unavailable, match="within 1 s"):
            asyncio.run(store.aload("s")) if is_async else store.load("s")
        assert time.monotonic() - started < 4


# --- configuration


def test_tls_is_required_for_hosts_that_are_not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    def sslmode(conninfo: str) -> str | None:
        driver = HistoryStore.from_postgres(conninfo).driver
        return conninfo_to_dict(driver.address).get("sslmode")  # type: ignore[return-value]

    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.delenv("PGHOST", raising=False)
    assert sslmode("postgresql://u@db.example.supabase.co/postgres") == "require"
    assert sslmode("host=10.0.0.7 dbname=x") == "require"
    assert sslmode("postgresql://u@localhost,db.example.com/x") == "require"
    assert sslmode("postgresql://u@db.example.com/x?sslmode=verify-full") == "verify-full"
    for local in (
        "postgresql://u@localhost/x",
        "host=/tmp dbname=x",
        "postgresql://127.0.0.1/x",
        "postgresql://[::1]/x",
        "dbname=x",
    ):
        assert sslmode(local) is None, local


@pytest.mark.parametrize("bad", ["", "postgresql://u:hunter2@h:port/x", "nonsense hunter2", None])
def test_a_bad_conninfo_is_told_without_its_password(bad: str) -> None:
    with pytest.raises(NotConfigured, match="postgresql://user:password@host") as caught:
        HistoryStore.from_postgres(bad)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_from_env_takes_what_there_is(
    monkeypatch: pytest.MonkeyPatch, shared_database: str, data_api: servers.Lite
) -> None:
    for name in ("SUPABASE_DB_URL", "SUPABASE_URL", "SUPABASE_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotConfigured, match=r"SUPABASE_DB_URL.*SUPABASE_URL and SUPABASE_KEY"):
        HistoryStore.from_env()
    monkeypatch.setenv("SUPABASE_URL", data_api.url)
    monkeypatch.setenv("SUPABASE_KEY", servers.SECRET_KEY)
    with HistoryStore.from_env() as store:
        assert "DataApiDriver" in repr(store)
        assert store.load("s") == []
    monkeypatch.setenv("SUPABASE_DB_URL", shared_database)
    with HistoryStore.from_env() as store:
        assert "PsycopgDriver" in repr(store)
        assert store.load("s") == []


BAD_OPTIONS: list[dict[str, object]] = [
    {"deadline": 0},
    {"deadline": "x"},
    {"pool_size": 0},
    {"pool_size": True},
    {"on_error": 3},
    {"max_message_bytes": 0},
    {"count_tokens": "x"},
    {"schema": "a b"},
]


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        HistoryStore.from_postgres("postgresql://localhost/x", **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=next(iter(options))):
        HistoryStore.from_supabase("https://x.supabase.co", "sb_secret_x", **options)  # type: ignore[arg-type]


def test_a_store_is_made_by_its_constructors() -> None:
    with pytest.raises(NotConfigured, match="from_postgres"):
        HistoryStore("postgresql://localhost/postgres")  # type: ignore[arg-type]


def test_keys_go_the_way_of_their_kind() -> None:
    from langchain_supabase_history.drivers.data_api import _key_headers

    assert _key_headers("sb_secret_x") == {"apikey": "sb_secret_x"}
    assert _key_headers("eyJ.legacy.jwt") == {"apikey": "eyJ.legacy.jwt", "Authorization": "Bearer eyJ.legacy.jwt"}


def test_no_secret_is_in_a_repr(shared_database: str) -> None:
    secret = "hunter2hunter2hunter2"
    stores = [
        HistoryStore.from_postgres(f"postgresql://u:{secret}@localhost/x", jwt_secret=secret),
        HistoryStore.from_supabase("https://x.supabase.co", f"sb_secret_{secret}"),
    ]
    stores += [s.as_user(f"{secret}.{secret}.{secret}") for s in stores]
    for store in stores:
        text = repr(store) + repr(store.get_session_history("s")) + repr(vars(store))
        assert secret not in text


# --- the application's own clients


def test_from_client_speaks_as_whoever_is_signed_in(
    data_api: servers.Lite, users: list[tuple[str, str]], session: str
) -> None:
    import supabase

    client = supabase.create_client(data_api.url, servers.PUBLISHABLE_KEY)
    store = HistoryStore.from_client(client)
    with pytest.raises(Forbidden):
        store.load(session)
    for user_id, access_token in users:  # supabase-py makes `client.postgrest` anew when the session changes
        client.options.headers["Authorization"] = f"Bearer {access_token}"
        client.postgrest.session.close()
        client._postgrest = None
        store.append(session, [HumanMessage(user_id)])
        assert [m.text for m in store.load(session)] == [user_id]
        assert [m.text for m in asyncio.run(store.aload(session))] == [user_id]  # in a worker thread
    store.close()
    assert store.load(session)  # the client is the application's: close left it open
    client.postgrest.session.close()


def test_from_client_async(data_api: servers.Lite, session: str) -> None:
    import supabase

    async def main() -> None:
        client = await supabase.acreate_client(data_api.url, servers.SECRET_KEY)
        store = HistoryStore.from_client(async_client=client)
        await store.aappend(session, QA)
        assert await store.aload(session) == QA
        with pytest.raises(NotConfigured, match="async supabase client only"):
            store.load(session)
        await store.aclose()
        await client.postgrest.aclose()

    asyncio.run(main())
    with pytest.raises(NotConfigured, match="needs a supabase client"):
        HistoryStore.from_client()
    with pytest.raises(NotConfigured, match="got str"):
        HistoryStore.from_client("https://x.supabase.co")


# --- users


def test_as_user_is_decided_by_the_database(
    data_api: servers.Lite, users: list[tuple[str, str]], shared_database: str, session: str
) -> None:
    (ada, ada_token), (_, bob_token) = users
    with (
        HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as http,
        HistoryStore.from_postgres(shared_database, jwt_secret=servers.JWT_SECRET) as sql,
    ):
        for one, other in ((http, sql), (sql, http)):
            name = f"{session}-{one!r}"
            one.as_user(ada_token).append(name, [HumanMessage("ada's")])
            assert [m.text for m in other.as_user(lambda: ada_token).load(name)] == ["ada's"]
            assert other.as_user(bob_token).load(name) == []
            assert sql.for_user(ada).session(name).user_id == ada
            for view in (one.as_user(bob_token).for_user(ada), other.as_user(bob_token).for_user(ada)):
                with pytest.raises(Forbidden):
                    view.load(name)
                with pytest.raises(Forbidden):
                    view.append(name, QA)


def test_over_psycopg_the_store_checks_tokens(shared_database: str, session: str) -> None:
    with HistoryStore.from_postgres(shared_database, jwt_secret=servers.JWT_SECRET) as store:
        assert store.as_user(token(role="service_role")).load(session) == []  # the role is always `authenticated`
        for bad in (
            token(exp=1),
            token("another secret that is long enough"),
            token(aud="other"),
            token(sub=""),
            token()[:-2] + "xx",
            jwt.encode({"sub": "ada", "aud": "authenticated", "exp": 2**40}, "", algorithm="none"),
            jwt.encode({"sub": "ada", "aud": "authenticated"}, servers.JWT_SECRET),
        ):
            with pytest.raises((Forbidden, NotConfigured)) as caught:
                store.as_user(bad).load(session)
            assert bad not in str(caught.value)
            with pytest.raises((Forbidden, NotConfigured)):
                asyncio.run(store.as_user(bad).aload(session))
    with HistoryStore.from_postgres(shared_database) as keyless, pytest.raises(NotConfigured, match="jwt_secret"):
        keyless.as_user(token()).load(session)
    for wrong in (None, "x", "a b.c.d", 3):
        with pytest.raises(InvalidInput):
            store.as_user(wrong)  # type: ignore[arg-type]
    for claims in ({}, {"sub": ""}, {"sub": 3}):
        with pytest.raises(InvalidInput, match="'sub'"):
            store.as_user(claims=claims)


def test_asymmetric_tokens_are_checked_with_the_projects_keys(
    shared_database: str, session: str, tmp_path: Path
) -> None:
    import http.server
    import json

    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    body = json.dumps({"keys": [{**public, "kid": "k1", "alg": "ES256", "use": "sig"}]}).encode()

    class Keys(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        claims = {"sub": "ada", "aud": "authenticated", "exp": int(time.time()) + 60}
        good = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "k1"})
        forged = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": "k1"})
        url = f"http://127.0.0.1:{server.server_address[1]}/jwks.json"
        with HistoryStore.from_postgres(shared_database, jwks_url=url) as store:
            store.as_user(good).append(session, QA)
            assert len(store.for_user("ada").load(session)) == 2
            assert asyncio.run(store.as_user(good).aload(session)) == QA
            with pytest.raises(Forbidden):
                store.as_user(forged).load(session)
            with pytest.raises(NotConfigured, match="jwt_secret"):
                store.as_user(token()).load(session)
        server.shutdown()


def test_a_missing_role_fails_closed(session: str) -> None:
    with servers.postgres(servers.postgres_bin()) as plain:  # has no role `authenticated`
        from langchain_supabase_history import HistoryError, migrate

        conninfo = plain.url(plain.create_database())
        migrate(conninfo)
        with HistoryStore.from_postgres(conninfo) as store:
            store.for_user("ada").append(session, QA)
            with pytest.raises(HistoryError):
                store.as_user(claims={"sub": "ada"}).load(session)
            assert len(store.for_user("ada").load(session)) == 2


assert os.name == "posix", "these tests fork and send signals"
