"""The doctor on broken installations, each made on real servers: what it says, and that its mend mends."""

from __future__ import annotations

import ast
import contextlib
import http.server
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import jwt
import psycopg
import pytest
from supabase import ClientOptions, acreate_client, create_client

from langchain_supabase_history import HistoryStore, migrate
from langchain_supabase_history.commands.findings import show
from langchain_supabase_history.doctor.diagnose import Finding, diagnose
from langchain_supabase_history.doctor.network import reach
from langchain_supabase_history.migrations import migrations
from tests import servers
from tests.conftest import missing
from tests.proxy import proxy

PASSWORD = "hunter2-the-password"
LATEST = migrations()[-1].version


def examine(store: HistoryStore | None = None, **options: object) -> list[Finding]:
    """Diagnose in an empty environment, and see to it that nothing secret is shown."""
    options.setdefault("environ", {})
    found = diagnose(store, **options)  # type: ignore[arg-type]
    shown = json.dumps([asdict(finding) for finding in found])
    for secret in (PASSWORD, servers.SECRET_KEY, servers.PUBLISHABLE_KEY, servers.JWT_SECRET, "eyJ"):
        assert secret not in shown
    assert all(finding.mend for finding in found if finding.status != "ok")
    return found


def complaints(found: list[Finding], status: str = "fault") -> list[Finding]:
    return [finding for finding in found if finding.status == status]


def only(found: list[Finding], status: str = "fault") -> Finding:
    (finding,) = complaints(found, status)
    return finding


def sound(found: list[Finding]) -> set[str]:
    assert not [finding for finding in found if finding.status != "ok"]
    return {finding.name for finding in found}


def execute(conninfo: str, sql: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute(sql.encode())


def mend(conninfo: str, finding: Finding) -> None:
    """Do what the finding says, to the letter."""
    if finding.mend.startswith("langchain-supabase-history migrate"):
        words = finding.mend.split("  ")[0].split()[1:]
        subprocess.run(
            [
                sys.executable,
                "-c",
                "from langchain_supabase_history.commands.main import main; main()",
                *words,
                "--db-url",
                conninfo,
            ],
            check=True,
            capture_output=True,
        )
    else:
        execute(conninfo, finding.mend)


@contextlib.contextmanager
def web_server(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[str]:
    """A web server that answers everything alike: its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {
                "Content-Type": "text/html",
                "Content-Length": str(len(body)),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


# --- sound installations


def test_a_sound_database_is_sound(database: str) -> None:
    found = examine(db_url=database)
    assert sound(found) == {
        "environment",
        "network",
        "connection",
        "schema",
        "role",
        "grants",
        "row level security",
        "round trip",
        "latency",
        "langsmith",
    }
    says = " ".join(finding.says for finding in found)
    assert "reached directly" in says
    assert f"at version {LATEST}" in says
    assert "as postgres, past row level security" in says
    with psycopg.connect(database) as conn:  # the scratch session has left no content, only its tombstone
        left = conn.execute(
            "select session_id, title, metadata, deleted_at is null from chat_history_sessions"
        ).fetchall()
        assert [row[0].startswith("doctor-") and row[1:] == (None, None, False) for row in left] == [True]
        assert conn.execute("select count(*) from chat_history_messages").fetchone() == (0,)
        assert conn.execute("select count(*) from chat_history_turns").fetchone() == (0,)


def test_a_sound_database_behind_a_transaction_pooler(database: str, bouncer: Callable[[str], str]) -> None:
    found = examine(db_url=bouncer(database))
    sound(found)
    assert any("through a transaction pooler" in finding.says for finding in found)


def test_a_sound_schema_on_postgresql_15_in_another_schema(pg15: servers.Postgres) -> None:
    url = pg15.url(pg15.create_database())
    migrate(url, schema="Chat")
    found = examine(db_url=url, schema="Chat")
    assert "grants" in sound(found)
    execute(url, 'alter table "Chat".chat_history_turns disable row level security')
    execute(url, 'grant select on "Chat".chat_history_turns to anon')
    for finding in complaints(found := examine(db_url=url, schema="Chat")):
        mend(url, finding)
    assert len(complaints(found)) == 2
    sound(examine(db_url=url, schema="Chat"))


def test_a_sound_data_api(data_api: servers.Lite) -> None:
    found = examine(url=data_api.url, key=servers.SECRET_KEY)
    assert sound(found) == {
        "environment",
        "key",
        "connection",
        "schema",
        "role",
        "grants",
        "row level security",
        "round trip",
        "latency",
        "langsmith",
    }
    says = " ".join(finding.says for finding in found)
    assert "A secret key" in says
    assert "as service_role, past row level security" in says


def test_a_sound_data_api_for_a_signed_in_user(data_api: servers.Lite, users: list[tuple[str, str]]) -> None:
    with HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as store:
        found = examine(store.as_user(users[0][1]))
    sound(found)
    says = " ".join(finding.says for finding in found)
    assert "carries a user" in says
    assert "as authenticated, held to row level security" in says


def test_a_sound_client_of_the_applications_own(data_api: servers.Lite, users: list[tuple[str, str]]) -> None:
    headers = {"Authorization": f"Bearer {users[0][1]}"}
    for client in (
        create_client(data_api.url, servers.SECRET_KEY),
        create_client(data_api.url, servers.PUBLISHABLE_KEY, ClientOptions(headers=headers)),
    ):
        sound(examine(HistoryStore.from_client(client)))
        client.postgrest.session.close()


async def _async_client(url: str) -> HistoryStore:
    return HistoryStore.from_client(async_client=await acreate_client(url, servers.SECRET_KEY))


def test_an_async_client_alone_cannot_be_examined(data_api: servers.Lite) -> None:
    import asyncio

    finding = only(examine(asyncio.run(_async_client(data_api.url))))
    assert finding.name == "address"
    assert "async supabase client only" in finding.says


# --- configuration


@pytest.mark.parametrize(
    ("environ", "says", "mends"),
    [
        ({}, "No database is configured", "SUPABASE_DB_URL"),
        ({"SUPABASE_URL": "http://x"}, "SUPABASE_KEY is not", "Set SUPABASE_KEY"),
        ({"SUPABASE_KEY": "k"}, "SUPABASE_URL is not", "Set SUPABASE_URL"),
        ({"DATABASE_URL": "x"}, "DATABASE_URL is set, which", "Set SUPABASE_DB_URL to what DATABASE_URL"),
        ({"SUPABASE_URL": "u", "SUPABASE_SERVICE_ROLE_KEY": "k"}, "SERVICE_ROLE_KEY", "Set SUPABASE_KEY to what"),
        ({"DATABASE_URL": "", "SUPABASE_ANON_KEY": "k"}, "SUPABASE_ANON_KEY is set", "SUPABASE_KEY to the secret key"),
        ({"SUPABASE_URL": "u", "VITE_SUPABASE_PUBLISHABLE_KEY": "k"}, "PUBLISHABLE_KEY is set", "public key, which"),
        ({"SUPABASE_URL": "u", "SUPABASE_API_KEY": servers.PUBLISHABLE_KEY}, "API_KEY is set", "to the secret key"),
        ({"SUPABASE_URL": "u", "SUPABASE_ANON_KEY": "k", "SUPABASE_SECRET_KEY": "s"}, "SECRET_KEY is set", "what SUPA"),
        ({"SUPABASE_DB_URL": "postgresql://postgres.<project>:pw@h/x"}, "still says <project>", "without the brackets"),
        ({"SUPABASE_URL": "https://<project>.supabase.co", "SUPABASE_KEY": "k"}, "SUPABASE_URL still says <", "brack"),
        ({"SUPABASE_DB_URL": "https://x.supabase.co"}, "holds a web address", "SUPABASE_URL"),
        ({"SUPABASE_URL": f"postgresql://u:{PASSWORD}@h", "SUPABASE_KEY": "k"}, "connection string", "SUPABASE_DB_URL"),
        ({"SUPABASE_URL": "https://supabase.com/x", "SUPABASE_KEY": "k"}, "dashboard", "<project>.supabase.co"),
        ({"SUPABASE_DB_URL": "postgresql://postgres:[YOUR-PASSWORD]@h/x"}, r"[YOUR-PASSWORD]", "brackets"),
        ({"SUPABASE_DB_URL": f"postgresql://u:p@{PASSWORD}@h/x"}, "cannot be read", "percent-encoded"),
        ({"SUPABASE_URL": "x.supabase.co", "SUPABASE_KEY": "k"}, "no web address", "https://<project>"),
        ({"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_KEY": "two words"}, "SUPABASE_KEY cannot be", "secret"),
    ],
)
def test_configuration(environ: dict[str, str], says: str, mends: str) -> None:
    finding = only(examine(environ=environ))
    assert finding.name in ("environment", "address")
    assert says in finding.says
    assert mends in f"{finding.says} {finding.mend}"


def test_an_option_goes_before_the_environment(database: str) -> None:
    sound(diagnose(db_url=database, environ={"SUPABASE_DB_URL": "postgresql://elsewhere.invalid/x"}))
    found = diagnose(url="http://127.0.0.1:1", key="k", environ={"SUPABASE_DB_URL": database})
    assert only(found).says == "Nothing listens at 127.0.0.1:1."


# --- the way there


def test_unknown_host_names(data_api: servers.Lite) -> None:
    for found in (
        examine(db_url=f"postgresql://u:{PASSWORD}@db.nowhere.invalid/x"),
        examine(url="https://nowhere.invalid", key=servers.SECRET_KEY),
    ):
        finding = only(found)
        assert finding.name == "network"
        assert "nowhere.invalid is not known" in finding.says
        assert "Copy" in finding.mend


def test_nothing_listens() -> None:
    port = servers.free_port()
    for found in (
        examine(db_url=f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/x"),
        examine(url=f"http://127.0.0.1:{port}", key=servers.SECRET_KEY),
    ):
        finding = only(found)
        assert finding.name == "network"
        assert finding.says == f"Nothing listens at 127.0.0.1:{port}."
        assert "port" in finding.mend


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        assert (
            "does not answer as PostgreSQL within 0.5 s"
            in only(examine(db_url=f"postgresql://u@127.0.0.1:{port}/x", deadline=1)).says
        )
        found = only(examine(url=f"http://127.0.0.1:{port}", key=servers.SECRET_KEY, deadline=1))
        assert "did not answer in time" in found.says


def test_a_port_of_something_else() -> None:
    with web_server(200, b"<html>") as url:
        finding = only(examine(db_url=url.replace("http://", "postgresql://u@") + "/x"))
        assert "PostgreSQL" in finding.says
        assert "6543" in finding.mend


def test_an_address_with_ipv6_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*args: object, **kwargs: object) -> None:  # the machine's lack of a route, not a server
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", no_route)
    finding = reach("2001:db8::1", 5432, "require", 1)
    assert finding.status == "fault"
    assert "IPv6 address only" in finding.says
    assert "Session pooler" in finding.mend


def test_tls_that_is_required_and_not_offered(database: str) -> None:
    finding = only(examine(db_url=f"{database}?sslmode=require"))
    assert finding.name == "tls"
    assert "offers none" in finding.says
    assert "sslmode=disable" in finding.mend
    sound(examine(db_url=f"{database}?sslmode=disable"))


def test_https_to_a_server_without_tls(data_api: servers.Lite) -> None:
    finding = only(examine(url=data_api.url.replace("http:", "https:"), key=servers.SECRET_KEY))
    assert finding.name == "tls"
    assert "http://" in finding.mend


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (404, b"<html>not found</html>", {}),
        (200, b"<html>welcome</html>", {}),
        (301, b"", {"Location": "https://elsewhere.invalid/"}),
        (405, b"", {}),
        (501, b"<html>", {}),
    ],
)
def test_a_url_that_is_no_data_api(status: int, body: bytes, headers: dict[str, str]) -> None:
    with web_server(status, body, headers) as url:
        started = time.monotonic()
        finding = only(examine(url=url, key=servers.SECRET_KEY))
        assert time.monotonic() - started < 5
    assert finding.name == "address"
    assert "Data API" in finding.says
    assert "SUPABASE_URL" in finding.says + finding.mend


def test_a_slow_database(pg: servers.Postgres, database: str) -> None:
    with proxy(pg.port) as slow:
        slow.delay = 0.08
        found = examine(db_url=database.replace(f":{pg.port}/", f":{slow.port}/"), deadline=1.5)
        assert not complaints(found)
        finding = only(found, "warning")
        assert finding.name == "latency"
        assert "the deadline is 1.5 s" in finding.says
        assert "region" in finding.mend
        slow.delay = 0.6
        finding = complaints(examine(db_url=database.replace(f":{pg.port}/", f":{slow.port}/"), deadline=1))[0]
        assert "does not answer as PostgreSQL within 0.5 s" in finding.says


# --- login and key


@pytest.fixture(scope="module")
def guarded() -> Iterator[servers.Postgres]:
    """A cluster that asks for passwords."""
    with servers.postgres(servers.postgres_bin()) as server:
        server.execute(servers.SUPABASE_ROLES)
        migrate(server.url("postgres"))
        server.execute(f"alter role postgres password '{PASSWORD}'")
        server.execute(f"create role limited login connection limit 0 password '{PASSWORD}'")
        hba = "host all trusted 127.0.0.1/32 trust\nhost all postgres,limited 127.0.0.1/32 scram-sha-256\n"
        (server.folder / "data" / "pg_hba.conf").write_text(hba)
        server.execute("select pg_reload_conf()")
        end = time.monotonic() + 10
        with contextlib.suppress(psycopg.OperationalError):
            while time.monotonic() < end:
                psycopg.connect(server.url("postgres")).close()
                time.sleep(0.05)
        yield server


@pytest.mark.parametrize(
    ("login", "says"),
    [
        ("postgres:wrong", "password authentication failed"),
        ("postgres", "no password supplied"),
        ("nobody:wrong", "no pg_hba.conf entry"),
        ("trusted", 'role "trusted" does not exist'),
        (f"limited:{PASSWORD}", "too many connections"),
    ],
)
def test_a_refused_login(guarded: servers.Postgres, login: str, says: str) -> None:
    started = time.monotonic()
    finding = only(examine(db_url=f"postgresql://{login}@127.0.0.1:{guarded.port}/postgres"))
    assert time.monotonic() - started < 5
    assert finding.name == "login"
    assert says in finding.says
    if "refused the login" in finding.says:  # too many connections are told in the same way
        for cause in ("password", "too many connections", "pooler", "connection limit"):
            assert cause in finding.mend
    assert "wrong" not in finding.says.replace("wrongly", "")


def test_a_database_that_does_not_exist(guarded: servers.Postgres) -> None:
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{guarded.port}"
    assert 'database "nowhere" does not exist' in only(examine(db_url=f"{url}/nowhere")).says
    sound(examine(db_url=f"{url}/postgres"))


def test_a_wrong_key(data_api: servers.Lite) -> None:
    finding = only(examine(url=data_api.url, key="sb_secret_of_another_project"))
    assert finding.name == "key"
    assert "refused the key" in finding.says
    assert "API Keys" in finding.mend


def test_a_publishable_key_without_a_user(data_api: servers.Lite) -> None:
    found = examine(url=data_api.url, key=servers.PUBLISHABLE_KEY)
    finding = only(found)
    assert finding.name == "key"
    assert "a publishable key, and no user is signed in" in finding.says
    assert "as_user" in finding.mend
    assert any("closed to the public key" in f.says for f in found)


@pytest.mark.parametrize(
    ("role", "status", "says"),
    [
        ("service_role", "warning", "legacy service_role key"),
        ("anon", "fault", "legacy anon key"),
        ("authenticated", "fault", "signed-in user's access token"),
        ("dashboard", "fault", "no API key"),
    ],
)
def test_keys_that_are_jwts(data_api: servers.Lite, role: str, status: str, says: str) -> None:
    token = jwt.encode({"role": role, "ref": "abc", "exp": int(time.time()) + 1000}, servers.JWT_SECRET)
    found = examine(url=data_api.url, key=token)
    assert says in complaints(found, status)[0].says
    assert "secret key" in complaints(found, status)[0].mend


def test_keys_of_another_project_expired_or_of_another_kind() -> None:
    token = jwt.encode({"role": "service_role", "ref": "abc", "exp": int(time.time()) - 1}, servers.JWT_SECRET)
    found = examine(url="https://xyz.supabase.co", key=token, deadline=0.5)
    assert {"The key is of project abc, SUPABASE_URL of another.", "The key is expired."} <= {f.says for f in found}
    found = examine(url="http://127.0.0.1:1", key="sbp_0123456789", deadline=0.5)
    assert "management API" in complaints(found)[0].says
    found = examine(url="http://127.0.0.1:1", key="pass1234", deadline=0.5)
    assert "none of Supabase's keys" in only(found, "warning").says


# --- schema


def test_nothing_is_installed(empty_database: str) -> None:
    finding = only(examine(db_url=empty_database))
    assert finding == Finding(
        "schema", "fault", "Nothing is installed in schema public.", "langchain-supabase-history migrate"
    )
    mend(empty_database, finding)
    sound(examine(db_url=empty_database))


def test_what_is_missing_in_another_schema(empty_database: str, data_api: servers.Lite) -> None:
    finding = only(examine(db_url=empty_database, schema="nix"))
    assert finding.says == "Nothing is installed in schema nix."
    assert finding.mend == "langchain-supabase-history migrate --schema nix"
    mend(empty_database, finding)
    execute(empty_database, f"delete from nix.chat_history_migrations where version = {LATEST}")
    assert complaints(examine(db_url=empty_database, schema="nix"))[0].mend == finding.mend


def test_an_older_schema(empty_database: str) -> None:
    execute(empty_database, migrations()[0].statement())
    found = examine(db_url=empty_database)
    finding = complaints(found)[0]
    assert finding.name == "schema"
    assert "older than this release" in finding.says
    assert f"of {LATEST} is missing" in finding.says
    mend(empty_database, finding)
    sound(examine(db_url=empty_database))


def test_a_newer_schema(database: str) -> None:
    execute(database, "insert into chat_history_migrations (version, name, checksum) values (9999, 'later', 'x')")
    found = examine(db_url=database)
    assert not complaints(found)
    assert "version 9999) is newer than this release" in only(found, "warning").says
    assert "pip install --upgrade" in only(found, "warning").mend


def test_a_ledger_of_another_release(database: str) -> None:
    execute(database, "update chat_history_migrations set checksum = 'other' where version = 1")
    finding = only(examine(db_url=database))
    assert "Migration 1 was applied in another form" in finding.says
    assert "another schema" in finding.mend


def test_tables_of_others(empty_database: str) -> None:
    execute(empty_database, "create table chat_history_messages (id bigint primary key, body text)")
    finding = only(examine(db_url=empty_database))
    assert "tables of our names" in finding.says
    assert "Rename them" in finding.mend


def test_a_stale_schema_cache(pg: servers.Postgres) -> None:
    if not servers.LITE_CLI.exists():
        missing("@supabase/lite", servers.LITE_INSTALL)
    url = pg.url(pg.create_database())
    with servers.lite(url) as api:
        finding = only(examine(url=api.url, key=servers.SECRET_KEY))
        assert finding.name == "schema"
        assert "does not know this library's functions" in finding.says
        assert "langchain-supabase-history migrate" in finding.mend
        mend(url, finding)
        finding = only(examine(url=api.url, key=servers.SECRET_KEY))  # this server reads its cache at start alone
        assert "schema cache is stale" in finding.says
        assert "notify pgrst, 'reload schema'" in finding.mend


def test_a_schema_that_the_data_api_does_not_serve(data_api: servers.Lite) -> None:
    finding = only(examine(url=data_api.url, key=servers.SECRET_KEY, schema="private"))
    assert "does not serve this schema" in finding.says
    assert "Exposed schemas" in finding.mend


# --- grants and row level security, on both transports: the same database behind each


OWNED = "user_id = (select chat_history_user())"


@pytest.mark.parametrize(
    ("harm", "name", "says"),
    [
        (
            "grant truncate on chat_history_messages to authenticated",
            "grants",
            "authenticated may truncate on chat_history_messages. Truncate is not held back",
        ),
        ("grant select on chat_history_turns to anon", "grants", "anon may select on chat_history_turns."),
        (
            "grant insert on chat_history_turns to public",
            "grants",
            "PUBLIC (everybody) may insert on chat_history_turns.",
        ),
        (
            "grant execute on function chat_history_get_session to anon",
            "grants",
            "anon may execute chat_history_get_session.",
        ),
        (
            "grant execute on function chat_history_load to public",
            "grants",
            "PUBLIC (everybody) may execute chat_history_load.",
        ),
        (
            "grant execute on function chat_history_grant to authenticated",
            "grants",
            "authenticated may execute chat_history_grant.",
        ),
        (
            "grant insert on chat_history_migrations to authenticated",
            "grants",
            "authenticated may insert on chat_history_migrations.",
        ),
        (
            "revoke delete on chat_history_turns from authenticated",
            "grants",
            "authenticated may not delete on chat_history_turns.",
        ),
        (
            "revoke execute on function chat_history_append from authenticated",
            "grants",
            "authenticated may not execute chat_history_append.",
        ),
        (
            "alter table chat_history_messages disable row level security",
            "row level security",
            "Off for chat_history_messages: whoever may read it reads everybody's rows.",
        ),
        (
            "alter table chat_history_migrations disable row level security",
            "row level security",
            "Off for chat_history_migrations",
        ),
        ("drop policy owner on chat_history_turns", "row level security", "The policy of chat_history_turns is gone"),
        (
            f"drop policy owner on chat_history_turns; create policy owner on chat_history_turns using (true) "
            f"with check ({OWNED})",
            "row level security",
            "The policy of chat_history_turns was changed.",
        ),
        (
            f"drop policy owner on chat_history_turns; create policy owner on chat_history_turns to authenticated "
            f"using ({OWNED}) with check ({OWNED})",
            "row level security",
            "The policy of chat_history_turns was",
        ),
        (
            'create policy "all of it" on chat_history_sessions for select using (true)',
            "row level security",
            "A further policy 'all of it' on chat_history_sessions lets more through",
        ),
        (
            "alter view chat_history_daily_usage set (security_invoker = false)",
            "row level security",
            "View chat_history_daily_usage reads past row level security.",
        ),
    ],
)
def test_guards_that_were_taken_away(patient: tuple[str, servers.Lite], harm: str, name: str, says: str) -> None:
    database, api = patient
    execute(database, harm)
    over_psycopg, over_http = examine(db_url=database), examine(url=api.url, key=servers.SECRET_KEY)
    finding = only(over_psycopg)
    assert finding.name == name
    assert says in finding.says
    assert complaints(over_http) == complaints(over_psycopg)
    mend(database, finding)
    sound(examine(db_url=database))


def test_guards_that_only_hinder(patient: tuple[str, servers.Lite]) -> None:
    database, _ = patient
    execute(database, "grant truncate on chat_history_turns to service_role")
    execute(database, "create policy hidden on chat_history_turns as restrictive using (user_id <> '')")
    found = examine(db_url=database)
    assert not complaints(found)
    says = [finding.says for finding in complaints(found, "warning")]
    assert says == [
        "service_role may truncate on chat_history_turns: more than is needed.",
        "A further policy 'hidden' on chat_history_turns hides rows from their users.",
    ]
    for finding in complaints(found, "warning"):
        mend(database, finding)
    sound(examine(db_url=database))


def test_a_service_role_without_grants(patient: tuple[str, servers.Lite]) -> None:
    database, api = patient
    execute(database, "revoke execute on all functions in schema public from service_role")
    finding = only(examine(url=api.url, key=servers.SECRET_KEY))
    assert (finding.name, finding.says) == ("grants", "The role may not call this library's functions.")
    mend(database, finding)
    execute(database, "revoke select on chat_history_messages from service_role")
    found = examine(url=api.url, key=servers.SECRET_KEY)
    assert {finding.name for finding in complaints(found)} == {"grants", "round trip"}
    assert "service_role may not select on chat_history_messages." in complaints(found)[0].says
    mend(database, complaints(found)[0])
    sound(examine(url=api.url, key=servers.SECRET_KEY))


def test_a_round_trip_that_comes_back_changed(patient: tuple[str, servers.Lite]) -> None:
    database, _ = patient
    execute(
        database,
        """create function meddle() returns trigger language plpgsql as $$
        begin new.data := '{"content": "other"}'; return new; end $$""",
    )
    execute(
        database, "create trigger meddle before insert on chat_history_messages for each row execute function meddle()"
    )
    finding = only(examine(db_url=database))
    execute(database, "drop function meddle cascade")
    assert finding.name == "round trip"
    assert "triggers" in finding.mend
    sound(examine(db_url=database))


@pytest.mark.parametrize("schema", ["public", "Chat"])
@pytest.mark.parametrize("way", ["grant", "bypassrls"])
def test_a_login_that_neither_owns_nor_has_a_user(empty_database: str, schema: str, way: str) -> None:
    migrate(empty_database, schema=schema)
    role = f"App {uuid.uuid4().hex[:8]}"
    execute(empty_database, f'create role "{role}" login')
    url = psycopg.conninfo.make_conninfo(empty_database, user=role)
    finding = only(examine(db_url=url, schema=schema))
    assert finding.name == "grants"
    assert f"chat_history_grant('{role}');" in finding.mend
    mend(empty_database, finding)
    found = examine(db_url=url, schema=schema)
    assert any(f"as {role}, held to row level security" in finding.says for finding in found)
    finding = only(found)
    assert finding.name == "round trip"
    assert "as_user" in finding.mend
    assert "public key" not in finding.mend
    first, others = finding.mend.split("  (or: ")
    assert first == f'grant postgres to "{role}";'
    execute(empty_database, first if way == "grant" else others.split("  ")[0])
    assert not complaints(examine(db_url=url, schema=schema))
    execute(empty_database, f'drop owned by "{role}"; drop role "{role}"')


# --- LangSmith


@pytest.mark.parametrize(
    ("environ", "status", "says", "mends"),
    [
        ({}, "ok", "Not in use", ""),
        ({"LANGSMITH_TRACING": "false", "LANGSMITH_API_KEY": PASSWORD}, "ok", "Not in use", ""),
        ({"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": PASSWORD}, "ok", "Turns are traced", ""),
        ({"LANGSMITH_TRACING": "true"}, "fault", "there is no LANGSMITH_API_KEY", "Set LANGSMITH_API_KEY"),
        ({"LANGSMITH_TRACING": "True", "LANGSMITH_API_KEY": PASSWORD}, "fault", "not exactly true", "TRACING=true"),
        ({"LANGSMITH_TRACING": "1"}, "fault", "not exactly true", "LANGSMITH_TRACING=true"),
        ({"LANGSMITH_API_KEY": PASSWORD}, "warning", "LANGSMITH_TRACING is not", "LANGSMITH_TRACING=true"),
        ({"LANGCHAIN_TRACING_V2": "true", "LANGCHAIN_API_KEY": PASSWORD}, "warning", "LANGCHAIN_TRACING_V2", "Rename"),
    ],
)
def test_langsmith(
    environ: dict[str, str], status: str, says: str, mends: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [finding for finding in examine(environ=environ) if finding.name == "langsmith"]
    assert found[-1].status == status
    assert says in found[-1].says
    assert mends in found[-1].mend


@pytest.mark.parametrize("secrets", ["LANGSMITH_TRACING = true\n", '[langsmith]\nLANGSMITH_TRACING = "true"\n'])
def test_langsmith_in_streamlits_secrets(secrets: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".streamlit").mkdir()
    path = tmp_path / ".streamlit" / "secrets.toml"
    path.write_text(f'LANGSMITH_API_KEY = "{PASSWORD}"\n{secrets}')
    found = examine(environ={"LANGSMITH_API_KEY": PASSWORD})
    (finding,) = [finding for finding in found if finding.name == "langsmith"]
    assert finding.status == "fault"
    assert "boolean or in a section" in finding.says
    assert 'LANGSMITH_TRACING = "true"' in finding.mend
    path.write_text('LANGSMITH_TRACING = "true"\n')
    assert examine(environ={"LANGSMITH_API_KEY": PASSWORD, "LANGSMITH_TRACING": "true"})[-1].status == "ok"


# --- the command


def command(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    import os

    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "LANG", "PG"))}
    return subprocess.run(
        [sys.executable, "-c", "from langchain_supabase_history.commands.main import main; main()", "doctor", *args],
        capture_output=True,
        text=True,
        env={**clean, **environ},
        check=False,
    )


def test_the_command_on_a_sound_and_a_broken_database(database: str) -> None:
    done = command(SUPABASE_DB_URL=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("All is well.\n")
    assert "✓" not in done.stdout  # piped: plain words
    execute(database, "alter table chat_history_turns disable row level security")
    done = command("--db-url", database, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert [f["name"] for f in told["findings"] if f["status"] == "fault"] == ["row level security"]
    assert "enable row level security" in command("--db-url", database).stdout


def test_the_command_over_the_data_api(data_api: servers.Lite) -> None:
    done = command(SUPABASE_URL=data_api.url, SUPABASE_KEY=servers.SECRET_KEY)
    assert (done.returncode, done.stderr) == (0, "")
    done = command("--url", data_api.url, "--key", servers.SECRET_KEY, LANGSMITH_API_KEY="x")
    assert (done.returncode, done.stderr) == (0, "")  # a warning is no fault
    assert "warning langsmith" in done.stdout
    done = command("--schema", "no schema", "--url", data_api.url, "--key", servers.SECRET_KEY)
    assert (done.returncode, done.stderr) == (1, "")
    assert "schema must be a plain SQL identifier" in done.stdout


def test_a_table_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    show(
        [Finding("a", "ok", "good"), Finding("b", "warning", "so [so]", "see"), Finding("c", "fault", "bad", "do [it]")]
    )
    told = capsys.readouterr().out
    for part in ("✓", "!", "✗", "so [so]", "do [it]", "1 fault."):
        assert part in told


def test_the_command_on_an_embedded_postgresql(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as folder:
        for _ in range(2):
            done = command("--local", f"{folder}/postgres", "--schema", "chat")
            assert (done.returncode, done.stderr) == (0, "")
        assert "over a socket file" in done.stdout
        assert "Schema chat is at version" in done.stdout
    done = command("--local", str(tmp_path / "a blank"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: The embedded PostgreSQL cannot be in")
    done = command("--local", "--url", "http://x")
    assert done.returncode == 2
    assert "takes the place of" in done.stderr


# --- the page about it


def complaints_in_the_code() -> Iterator[str]:
    """What each warning and fault says, as far as it is always the same."""
    for path in sorted((servers.ROOT / "langchain_supabase_history" / "doctor").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("fault", "warning"):
                parts = [part.value for part in ast.walk(call.args[1]) if isinstance(part, ast.Constant)]
                if texts := [part for part in parts if isinstance(part, str) and len(part) > 5]:
                    yield max(texts, key=len).strip()


def test_every_complaint_is_explained() -> None:
    page = " ".join((servers.ROOT / "docs" / "troubleshooting.md").read_text().replace("\\", "").split())
    said = list(complaints_in_the_code())
    assert len(said) > 40
    assert [text for text in said if text not in page] == []
