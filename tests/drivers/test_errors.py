"""Every error met on purpose, on both transports: its class, its words, its cause, and that it carries no secret."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda

from langchain_supabase_history import (
    Conflict,
    Forbidden,
    HistoryStore,
    InvalidMessage,
    InvalidSession,
    NotConfigured,
    NotFound,
    NotInstalled,
    NotSaved,
    StatementTimeout,
    StoreClosed,
    Turn,
    Unavailable,
    errors,
    migrate,
)
from langchain_supabase_history.errors import HistoryError, from_code, is_transient
from langchain_supabase_history.migrations import migrations
from tests import gateways, servers
from tests.conftest import Api, missing
from tests.doctor.helpers import execute, web_server

PASSWORD = "hunter2-the-password"
QA = [HumanMessage("question"), AIMessage("answer")]


def told(error: BaseException) -> str:
    """All that an error and those behind it say."""
    parts = []
    while error is not None:
        parts += [str(error), repr(error)]
        error = error.__cause__  # type: ignore[assignment]
    return "\n".join(parts)


@pytest.fixture(autouse=True)
def nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    text = "\n".join(record.getMessage() + str(record.exc_info or "") for record in caplog.records)
    for secret in (PASSWORD, servers.SECRET_KEY, servers.PUBLISHABLE_KEY, servers.JWT_SECRET, "eyJ"):
        assert secret not in text


@contextlib.contextmanager
def expect(kind: type[HistoryError], *words: str, cause: type[BaseException] | None = None) -> Iterator[None]:
    """An error of just this class, with these words, a next step, and the driver's own error behind it."""
    with pytest.raises(HistoryError) as caught:
        yield
    error = caught.value
    assert type(error) is kind, told(error)
    text = str(error)
    for word in words:
        assert word in text
    assert text == f"{error.says} {error.advice}".strip()
    assert text.endswith((".", "there.", ")"))
    assert ".." not in text.replace("...", "")
    if cause is not None:
        assert isinstance(error.__cause__, cause), repr(error.__cause__)
    for secret in (PASSWORD, servers.SECRET_KEY, servers.PUBLISHABLE_KEY, servers.JWT_SECRET, "eyJ"):
        assert secret not in told(error)


def both(sync: Callable[[], object], twin: Callable[[], object]) -> list[Callable[[], object]]:
    """An operation in its two faces."""
    return [sync, lambda: asyncio.run(twin())]  # type: ignore[arg-type]


def loads(store: HistoryStore) -> list[Callable[[], object]]:
    return both(lambda: store.load("s"), lambda: store.aload("s"))


# --- not installed


def test_not_installed_over_psycopg(empty_database: str) -> None:
    with HistoryStore.from_postgres(empty_database) as store:
        for load in loads(store):
            with expect(NotInstalled, "langchain-supabase-history migrate", cause=psycopg.errors.UndefinedFunction):
                load()
    with HistoryStore.from_postgres(empty_database, schema="chat") as store, expect(NotInstalled, "--schema"):
        store.load("s")


def test_not_installed_and_stale_over_the_data_api(pg: servers.Postgres) -> None:
    if not servers.LITE_CLI.exists():
        missing("@supabase/lite", servers.LITE_INSTALL)
    url = pg.url(pg.create_database())
    with servers.lite(url) as api, HistoryStore.from_supabase(api.url, servers.SECRET_KEY) as store:
        for load in loads(store):
            with expect(NotInstalled, "langchain-supabase-history migrate", "SQL editor"):
                load()
        migrate(url)
        with expect(NotInstalled, "may not have noticed", "notify pgrst, 'reload schema'"):
            store.load("s")


def test_an_older_schema(empty_database: str) -> None:
    execute(empty_database, migrations()[0].statement())
    with HistoryStore.from_postgres(empty_database) as store, expect(NotInstalled, "migrate"):
        store.usage()


def test_a_schema_that_is_not_served(data_api: servers.Lite) -> None:
    store = HistoryStore.from_supabase(data_api.url, servers.SECRET_KEY, schema="private")
    with store, expect(NotConfigured, "does not serve this schema", "Exposed schemas"):
        store.load("s")


def test_a_table_in_the_way(empty_database: str) -> None:
    execute(empty_database, "create table chat_history_messages (id bigint)")
    with expect(Conflict, "did not make", "another schema", cause=psycopg.errors.DuplicateTable):
        migrate(empty_database)


# --- refused


def test_missing_grants(patient: tuple[str, servers.Lite]) -> None:
    database, api = patient
    execute(database, "revoke execute on all functions in schema public from service_role")
    with HistoryStore.from_supabase(api.url, servers.SECRET_KEY) as store:
        for load in loads(store):
            with expect(Forbidden, "permission denied for function chat_history_load", "select chat_history_grant()"):
                load()
        execute(database, "select chat_history_grant(); revoke insert on chat_history_messages from service_role")
        with expect(Forbidden, "permission denied for table chat_history_messages", "select chat_history_grant()"):
            store.append("s", QA)
    execute(database, "select chat_history_grant()")
    role = f"app_{uuid.uuid4().hex[:8]}"
    execute(database, f"create role {role} login")
    with HistoryStore.from_postgres(database.replace("postgres@", f"{role}@")) as store:
        for load in loads(store):
            with expect(Forbidden, "permission denied", cause=psycopg.errors.InsufficientPrivilege):
                load()


def test_a_public_key_without_a_user(data_api: servers.Lite) -> None:
    with HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as store:
        for load in loads(store):
            with expect(Forbidden, "public key alone", "as_user(access_token)", "secret"):
                load()


def test_another_users_session(data_api: servers.Lite, shared_database: str, users: list[tuple[str, str]]) -> None:
    (ada, token), (bob, _) = users
    words = "names another user than its claims"
    store = HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY)
    with store, expect(Forbidden, words):
        store.as_user(token).for_user(bob).load("s")
    store = HistoryStore.from_postgres(shared_database)
    with store, expect(Forbidden, words, cause=psycopg.errors.InsufficientPrivilege):
        store.as_user(claims={"sub": ada}).for_user(bob).load("s")


def test_a_wrong_key(data_api: servers.Lite) -> None:
    with HistoryStore.from_supabase(data_api.url, f"sb_secret_{PASSWORD}") as store:
        for load in loads(store):
            with expect(Forbidden, "refused the key", "SUPABASE_KEY"):
                load()


@pytest.mark.parametrize("which", ["expired", "forged"])
def test_a_token_that_is_no_good(
    which: str, data_api: servers.Lite, shared_database: str, users: list[tuple[str, str]]
) -> None:
    claims = {"sub": users[0][0], "role": "authenticated", "aud": "authenticated"}
    late = -100 if which == "expired" else 1000
    secret = servers.JWT_SECRET if which == "expired" else "another-secret-that-is-long-enough-too"
    token = jwt.encode({**claims, "exp": int(time.time()) + late}, secret)
    with HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as store:
        for load in loads(store.as_user(token)):
            with expect(Forbidden, "access token", "fresh access token", "callable"):
                load()
    with HistoryStore.from_postgres(shared_database, jwt_secret=servers.JWT_SECRET) as store:
        for load in loads(store.as_user(token)):
            with expect(Forbidden, "access token", "fresh access token", cause=jwt.PyJWTError):
                load()


def test_a_token_that_nothing_can_check(shared_database: str) -> None:
    with HistoryStore.from_postgres(shared_database) as store:
        for token in ("not.a.token", jwt.encode({"sub": "u"}, servers.JWT_SECRET)):
            for load in loads(store.as_user(token)):
                with expect(NotConfigured, "has no key to check", "jwks_url", "jwt_secret", "claims"):
                    load()


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"<html>", Unavailable, ["could not be fetched from jwks_url"]),
        (b"\xff", Unavailable, ["could not be fetched from jwks_url"]),
        (b'{"keys": []}', NotConfigured, ["no key to check", "jwks.json", "jwt_secret"]),
        (b"{}", NotConfigured, ["no key to check"]),
    ],
)
def test_an_address_without_keys(shared_database: str, body: bytes, kind: type[HistoryError], words: list[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode({"sub": "u"}, key, algorithm="ES256", headers={"kid": "k1"})
    with web_server(200, body) as url, HistoryStore.from_postgres(shared_database, jwks_url=url, deadline=1) as store:
        for load in loads(store.as_user(token)):
            with expect(kind, *words):
                load()


def test_a_refused_login(pg: servers.Postgres) -> None:
    with servers.postgres(servers.postgres_bin()) as server:
        (server.folder / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        server.execute("select pg_reload_conf()")
        time.sleep(0.3)
        with HistoryStore.from_postgres(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{server.port}/x") as store:
            started = time.monotonic()
            for load in loads(store):
                with expect(
                    Forbidden,
                    'password authentication failed for user "postgres"',
                    "postgres.<project>",
                    cause=psycopg.OperationalError,
                ):
                    load()
            assert time.monotonic() - started < 4  # never retried
        with expect(Forbidden, "password authentication failed", cause=psycopg.OperationalError):
            migrate(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{server.port}/x")


def test_a_login_that_may_not_become_the_user(pg: servers.Postgres, database: str) -> None:
    role = f"app_{uuid.uuid4().hex[:8]}"
    execute(database, f"create role {role} login; select chat_history_grant('{role}')")
    with HistoryStore.from_postgres(database.replace("postgres@", f"{role}@")) as store:
        with expect(Forbidden, 'permission denied to set role "authenticated"'):
            store.as_user(claims={"sub": "u"}).load("s")
        with expect(Forbidden, f"row level security applies to role {role} and the request carries no user"):
            store.load("s")


def test_a_database_without_supabases_roles() -> None:
    with servers.postgres(servers.postgres_bin()) as plain:
        migrate(plain.url("postgres"))
        with HistoryStore.from_postgres(plain.url("postgres")) as store:
            store.append("s", QA)
            with expect(NotConfigured, 'role "authenticated" does not exist', "create role authenticated"):
                store.as_user(claims={"sub": "u"}).load("s")


# --- out of reach


@pytest.mark.parametrize("host", ["127.0.0.1", "db.nowhere.invalid"])
def test_unreachable(host: str) -> None:
    port = servers.free_port()
    why, deadline = (
        ("refused", 0.7) if host[0].isdigit() else ("Name or service not known", 1.5)
    )  # asking may take long
    with HistoryStore.from_postgres(f"postgresql://u:{PASSWORD}@{host}:{port}/x", deadline=deadline) as store:
        for load in loads(store):
            with expect(Unavailable, f"within {deadline} s", why, "doctor", cause=psycopg.OperationalError):
                load()
    with HistoryStore.from_supabase(f"http://{host}:{port}", servers.SECRET_KEY, deadline=deadline) as store:
        for load in loads(store):
            with expect(Unavailable, f"within {deadline} s", "Data API could not be reached", cause=httpx.ConnectError):
                load()


def test_tls_that_is_not_offered(database: str) -> None:
    store = HistoryStore.from_postgres(f"{database}?sslmode=require", deadline=0.7)
    with store, expect(Unavailable, "does not support SSL, but SSL was required", cause=psycopg.OperationalError):
        store.load("s")


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    shown, trusted = gateways.certificate(tmp_path, "localhost"), gateways.certificate(tmp_path, "another")
    with gateways.impostor(shown) as port:
        conninfo = f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/x?sslmode=verify-full&sslrootcert={trusted}"
        with HistoryStore.from_postgres(conninfo, deadline=0.7) as store:
            for load in loads(store):
                with expect(Unavailable, "certificate verify failed", "sslrootcert", cause=psycopg.OperationalError):
                    load()
        with HistoryStore.from_supabase(f"https://127.0.0.1:{port}", servers.SECRET_KEY, deadline=0.7) as store:
            for load in loads(store):
                with expect(Unavailable, "CERTIFICATE_VERIFY_FAILED", "SSL_CERT_FILE", cause=httpx.ConnectError):
                    load()


def test_a_closed_store(shared_database: str, data_api: servers.Lite) -> None:
    with HistoryStore.from_postgres(shared_database) as store:
        store.load("s")
        store.driver._pool.close()  # type: ignore[attr-defined]  # as another thread's close would
        with expect(StoreClosed, "closed while this operation ran", "opens again", cause=psycopg.OperationalError):
            store.load("s")
    with HistoryStore.from_supabase(data_api.url, servers.SECRET_KEY) as over_http:
        over_http.load("s")
        over_http.driver._sync.session.close()  # type: ignore[attr-defined]
        with expect(StoreClosed, "closed while this operation ran", cause=RuntimeError):
            over_http.load("s")


# --- configuration


@pytest.mark.parametrize(
    "bad",
    [
        f"postgresql://u:p@{PASSWORD}@h:5432/x",
        f"postgresql://u:12/{PASSWORD}@h:5432/x",
        f"postgresql://u:a/{PASSWORD}@h:5432/x",
        f"postgresql://u:{PASSWORD}%zz@h/x",
        f"postgresql://u:{PASSWORD}@h:99999/x",
        f"postgresql://u:{PASSWORD}@h:port/x",
        f"host=h password='{PASSWORD}",
        f"host=h password={PASSWORD} {PASSWORD}",
        f"host=h {PASSWORD}=x",
    ],
)
def test_a_conninfo_that_cannot_be_read(bad: str) -> None:
    with expect(NotConfigured, "cannot be read", "percent-encoded"):
        HistoryStore.from_postgres(bad)
    with expect(NotConfigured, "cannot be read"):
        migrate(bad)


def test_a_conninfo_that_was_not_filled_in() -> None:
    with expect(NotConfigured, "[YOUR-PASSWORD]", "without the brackets"):
        HistoryStore.from_postgres("postgresql://postgres:[YOUR-PASSWORD]@db.x.supabase.co:5432/postgres")
    with expect(NotConfigured, "sslmode", "require"):
        HistoryStore.from_postgres("postgresql://postgres@h/postgres?sslmode=on")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (f"postgresql://postgres.<project>:{PASSWORD}@h/postgres", "<project>"),
        ("postgresql://postgres.abc:<password>@h/postgres", "<password>"),
        (f"postgresql://postgres.abc:{PASSWORD}@<region>.pooler.supabase.com/postgres", "<region>"),
        (f"host=h user=[YOUR-PROJECT-REF] password={PASSWORD}", "[YOUR-PROJECT-REF]"),
        ("https://<project>.supabase.co", "<project>"),
    ],
)
def test_an_address_that_was_not_filled_in(url: str, word: str) -> None:
    with expect(NotConfigured, f"still says {word}", "without the brackets"):
        if url.startswith("https"):
            HistoryStore.from_supabase(url, servers.SECRET_KEY)
        else:
            HistoryStore.from_postgres(url)


def test_a_password_with_brackets_is_one() -> None:
    HistoryStore.from_postgres(f"postgresql://u:<{PASSWORD}>[x]@h/x")


def test_addresses_of_another_kind() -> None:
    with expect(NotConfigured, "web address", "from_supabase"):
        HistoryStore.from_postgres("https://abc.supabase.co")


def test_an_environment_without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUPABASE_DB_URL", "SUPABASE_URL", "SUPABASE_KEY", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    also = (".env file is not read", "Streamlit", "HistoryStore.local()")
    with expect(NotConfigured, "No database is configured", "SUPABASE_DB_URL", "SUPABASE_KEY", *also):
        HistoryStore.from_env()
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{PASSWORD}@h/x")
    with expect(NotConfigured, "Set SUPABASE_DB_URL to what DATABASE_URL holds", *also):
        HistoryStore.from_env()
    monkeypatch.setenv("SUPABASE_URL", "https://x.supabase.co")
    with expect(NotConfigured, "SUPABASE_URL is set, SUPABASE_KEY is not.", "Set SUPABASE_KEY too", *also):
        HistoryStore.from_env()


def test_options_out_of_range(shared_database: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"^deadline must be a number of seconds, from 0\.01 on\.$"):
        HistoryStore.from_postgres(shared_database, deadline=0)
    with pytest.raises(errors.InvalidInput, match=r"^pool_size must be a number from 1 on\.$"):
        HistoryStore.from_postgres(shared_database, pool_size=0)


@pytest.mark.parametrize("text", ["\x00", "\x07", "\x7f"])
def test_control_characters_in_keys_and_tokens(data_api: servers.Lite, text: str) -> None:
    with expect(NotConfigured, "Copy it again"), HistoryStore.from_supabase(data_api.url, f"{PASSWORD}{text}") as store:
        store.load("s")
    with (
        HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as store,
        pytest.raises(HistoryError) as caught,
    ):
        store.as_user(f"{PASSWORD}{text}.b.c").load("s")
    assert PASSWORD not in told(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "words"),
    [
        (404, b"<html>", {}, NotConfigured, "no Data API at this address"),
        (200, b"<html>", {}, NotConfigured, "no Data API at this address"),
        (301, b"", {"Location": "https://x.invalid"}, NotConfigured, "no Data API at this address"),
        (405, b"", {}, NotConfigured, "no Data API at this address"),
        (501, b"", {}, NotConfigured, "no Data API at this address"),
        (401, b"<html>", {}, Forbidden, "refused the key"),
        (403, b"<html>", {}, Forbidden, "refused the request"),
        (413, b"<html>", {}, InvalidMessage, "too large for the Data API"),
        (502, b"<html>", {}, Unavailable, "the Data API answered 502"),
        (540, b"project paused", {}, Unavailable, "not paused"),
        (418, b"[]", {}, HistoryError, "reported 418"),
    ],
)
def test_what_gateways_and_web_servers_answer(
    status: int, body: bytes, headers: dict[str, str], kind: type[HistoryError], words: str
) -> None:
    with (
        web_server(status, body, headers) as url,
        HistoryStore.from_supabase(url, servers.SECRET_KEY, deadline=0.7) as store,
    ):
        for load in loads(store):
            with expect(kind, words):
                load()


# --- what the database answers


def test_statement_timeout(database: str) -> None:
    url = f"{database}?options=-c%20statement_timeout%3D300ms"
    with HistoryStore.from_postgres(url) as store, psycopg.connect(database) as other:
        store.append("held", QA)
        other.execute("select from chat_history_sessions for update")
        started = time.monotonic()
        for append in both(lambda: store.append("held", QA), lambda: store.aappend("held", QA)):
            with expect(StatementTimeout, "cancelled", "alter role", cause=psycopg.errors.QueryCanceled):
                append()
        assert time.monotonic() - started < 4  # once each: it is not retried


def test_statement_timeout_as_postgrest_tells_it() -> None:
    # The tests' Data API keeps this code to itself and says "SUP"; PostgREST hands it on with a 500, like this.
    body = b'{"code":"57014","details":null,"hint":null,"message":"canceling statement due to statement timeout"}'
    with web_server(500, body) as url, HistoryStore.from_supabase(url, servers.SECRET_KEY) as store:
        for load in loads(store):
            with expect(StatementTimeout, "cancelled the statement", "alter role"):
                load()


def test_conflict(api: Api, session: str) -> None:
    ids = [uuid.uuid4(), uuid.uuid4()]
    api.append(session, QA, ids=ids)
    with expect(Conflict, "stored with other content", "Nothing was written"):
        api.append(session, [HumanMessage("other"), AIMessage("answer")], ids=ids)
    with expect(Conflict, "twice in one call"):
        api.append(session, QA, ids=[uuid.UUID(int=7), uuid.UUID(int=7)])
    epoch = api.session(session).epoch
    api.clear(session)
    with expect(Conflict, "cleared or deleted", "Load the session again"):
        api.append(session, QA, epoch=epoch)


def test_not_found(api: Api, session: str) -> None:
    with expect(NotFound, f"no session {session!r}", "first append"):
        api.session(session)


def test_bad_input(api: Api, session: str) -> None:
    with expect(InvalidSession, "session_id"):
        api.load("")
    with expect(InvalidMessage, r"messages[0]", "max_message_bytes"):
        api.append(session, [HumanMessage("x" * 2**24)])
    with expect(InvalidMessage, "additional_kwargs.a"):
        api.append(session, [HumanMessage("x", additional_kwargs={"a": object()})])


def test_a_value_that_the_database_refuses(store: HistoryStore, session: str) -> None:
    turn = Turn(uuid.uuid4(), status="completed", input_tokens=2**70)
    with pytest.raises(HistoryError) as caught:
        store.append(session, QA, turn=turn)
    assert "token" in str(caught.value) or "out of range" in str(caught.value)


def test_not_saved_carries_what_was_made(patient: tuple[str, servers.Lite], session: str) -> None:
    database, api = patient
    execute(database, "revoke insert on chat_history_messages from service_role")
    config: RunnableConfig = {"configurable": {"session_id": session}}
    with HistoryStore.from_supabase(api.url, servers.SECRET_KEY) as store:
        chain = store.with_history(RunnableLambda(lambda messages: AIMessage("answer")))
        for ask in both(lambda: chain.invoke("question", config), lambda: chain.ainvoke("question", config)):
            with pytest.raises(NotSaved) as caught:
                ask()
            assert caught.value.output == AIMessage("answer")
            assert caught.value.messages[-1] == AIMessage("answer")
            assert ".output" in caught.value.advice
            assert type(caught.value.__cause__) is Forbidden
    execute(database, "select chat_history_grant()")


# --- the tree itself


def test_every_class_is_drawn_in_the_tree_and_says_what_to_do() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, HistoryError)}
    drawing = errors.__doc__ or ""
    for cls in classes:
        assert cls.__name__ in drawing
        assert cls.__doc__
    for code in errors._CODES:
        error = from_code(code, "the server's words")
        assert error.code == code
        assert error.says[0].isupper()
        assert error.says.endswith(".")
        assert error.advice or isinstance(error, (InvalidSession, InvalidMessage)), code
        assert not is_transient(code) or type(error) is Unavailable, code
    assert "doctor" in from_code("XX000", "tenant not found").advice
    assert str(from_code("XX000")).startswith("The database reported XX000: it gave no details.")


def test_threads_get_errors_of_their_own(empty_database: str) -> None:
    caught: list[BaseException] = []

    def load() -> None:
        try:
            store.load("s")
        except NotInstalled as error:
            caught.append(error)

    with HistoryStore.from_postgres(empty_database) as store:
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({id(error) for error in caught}) == 4
