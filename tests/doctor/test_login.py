"""What the doctor says of logins and keys."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import jwt
import psycopg
import pytest

from langchain_supabase_history import migrate
from tests import servers
from tests.doctor.helpers import PASSWORD, complaints, examine, only, sound


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
            assert cause in finding.fix
    assert "wrong" not in finding.says.replace("wrongly", "")


def test_a_database_that_does_not_exist(guarded: servers.Postgres) -> None:
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{guarded.port}"
    assert 'database "nowhere" does not exist' in only(examine(db_url=f"{url}/nowhere")).says
    sound(examine(db_url=f"{url}/postgres"))


def test_a_wrong_key(data_api: servers.Lite) -> None:
    finding = only(examine(url=data_api.url, key="sb_secret_of_another_project"))
    assert finding.name == "key"
    assert "refused the key" in finding.says
    assert "API Keys" in finding.fix


def test_a_publishable_key_without_a_user(data_api: servers.Lite) -> None:
    found = examine(url=data_api.url, key=servers.PUBLISHABLE_KEY)
    finding = only(found)
    assert finding.name == "key"
    assert "a publishable key, and no user is signed in" in finding.says
    assert "as_user" in finding.fix
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
    assert "secret key" in complaints(found, status)[0].fix


def test_keys_of_another_project_expired_or_of_another_kind() -> None:
    token = jwt.encode({"role": "service_role", "ref": "abc", "exp": int(time.time()) - 1}, servers.JWT_SECRET)
    found = examine(url="https://xyz.supabase.co", key=token, deadline=0.5)
    assert {"The key is of project abc, SUPABASE_URL of another.", "The key is expired."} <= {f.says for f in found}
    found = examine(url="http://127.0.0.1:1", key="sbp_0123456789", deadline=0.5)
    assert "management API" in complaints(found)[0].says
    found = examine(url="http://127.0.0.1:1", key="pass1234", deadline=0.5)
    assert "none of Supabase's keys" in only(found, "warning").says
