"""What poolers, gateways and clocks answer: what may pass is tried again, what may not is said at once."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from postgrest import SyncPostgrestClient
from supabase import ClientOptions, create_client

from langchain_supabase_history import Forbidden, HistoryError, HistoryStore, NotConfigured, Unavailable
from tests import servers
from tests.gateways import gateway, pooler

QA = [HumanMessage("q"), AIMessage("a")]
SECRET = "a-jwt-secret-of-more-than-32-characters"


def through(port: int, conninfo: str, **options: Any) -> HistoryStore:
    user = urlsplit(conninfo).username
    name = urlsplit(conninfo).path
    return HistoryStore.from_postgres(f"postgresql://{user}:pw@127.0.0.1:{port}{name}", **options)


CROWDED = {
    "a role's limit": ('too many connections for role "app"', "53300"),
    "the server's limit": ("sorry, too many clients already", "53300"),
    "reserved slots": ("remaining connection slots are reserved for roles with the SUPERUSER attribute", "53300"),
    "Supavisor": ("(EMAXCONNSESSION) max clients reached in session mode - max clients are limited to 15", "XX000"),
    "PgBouncer": ("no more connections allowed (max_client_conn)", "08P01"),
}


@pytest.mark.parametrize("after_password", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", CROWDED)
def test_a_crowded_server_is_tried_again(shared_database: str, session: str, kind: str, after_password: bool) -> None:
    words, code = CROWDED[kind]
    port = urlsplit(shared_database).port or 5432
    with (
        pooler(words, code, after_password=after_password, refusals=2, target=port) as server,
        through(server.port, shared_database) as store,
    ):
        assert len(store.append(session, QA)) == 2
        assert server.logins >= 3
        assert store.load(session) == QA


def test_a_server_that_stays_crowded_names_the_limit(shared_database: str, tmp_path: Any, session: str) -> None:
    words = "(EMAXCONNSESSION) max clients reached in session mode"
    with pooler(words, after_password=True) as server:
        with (
            through(server.port, shared_database, deadline=1) as store,
            pytest.raises(Unavailable, match=r"EMAXCONNSESSION.*pool_size"),
        ):
            store.load(session)
        with through(server.port, shared_database, deadline=1, outbox=tmp_path / "outbox") as store:
            assert store.append(session, QA) == []
            assert len(store.waiting()) == 1


FINAL = {
    "a wrong password": ('password authentication failed for user "app"', "28P01", "password"),
    "an unknown role": ('role "app" does not exist', "28000", "user"),
    "an unknown database": ('database "nope" does not exist', "3D000", "database name"),
    "an unknown tenant": ("Tenant or user not found", "XX000", "postgres.<project>"),
    "a tenant by its name": ("(ENOTFOUND) tenant/user postgres.abc not found", "XX000", "postgres.<project>"),
    "no right to connect": ('permission denied for database "postgres"', "42501", "grant connect"),
    "TLS enforced": ("SSL connection is required", "XX000", "sslmode=require"),
    "a network restriction": ("Address not in tenant allow_list: {1, 2, 3}", "XX000", "network restrictions"),
}


@pytest.mark.parametrize("after_password", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", FINAL)
def test_what_no_try_mends_is_said_after_few(shared_database: str, kind: str, after_password: bool) -> None:
    words, code, advice = FINAL[kind]
    with pooler(words, code, after_password=after_password) as server, through(server.port, shared_database) as store:
        with pytest.raises(Forbidden, match=advice):
            store.load("x")
        assert server.logins <= 2


def test_a_parameter_that_a_pooler_does_not_take_is_named(shared_database: str) -> None:
    with (
        pooler("unsupported startup parameter: options", "08P01", after_password=False) as server,
        through(server.port, shared_database) as store,
    ):
        with pytest.raises(NotConfigured, match="startup parameter: options"):
            store.load("x")
        assert server.logins <= 2


def test_a_pooler_that_lets_nobody_in_says_why(shared_database: str) -> None:
    words = "(ECIRCUITBREAKER) too many authentication failures, new connections are temporarily blocked"
    with (
        pooler(words, after_password=False) as server,
        through(server.port, shared_database, deadline=0.5) as store,
        pytest.raises(Unavailable, match="wrong password"),
    ):
        store.load("x")


# --- the Data API's gateway

LOST = {"code": "", "details": None, "hint": None, "message": ""}
PASSING = {
    "a lost connection of PostgREST's": (400, LOST),
    "a token of the future": (401, {"code": "PGRST303", "message": "JWT issued at future"}),
    "a token that is not valid yet": (401, {"code": "PGRST303", "message": "JWT not yet valid"}),
    "a bad gateway": (502, b"<html>Bad Gateway</html>"),
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_tried_again(data_api: Any, session: str, kind: str) -> None:
    with (
        gateway(data_api.url, lambda n: PASSING[kind] if n == 1 else None) as (url, asked),
        HistoryStore.from_supabase(url, servers.SECRET_KEY) as store,
    ):
        assert len(store.append(session, QA)) == 2
        assert len(asked) == 2
        assert store.load(session) == QA


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((402, {"message": "exceed_egress_quota"}), "exceed_egress_quota"),
        ((401, {"message": "Legacy API keys are disabled", "hint": "Use sb_secret"}), "Legacy API keys are disabled"),
        ((403, {"error": "Forbidden by the firewall"}), "Forbidden by the firewall"),
        ((403, {"error": {"code": "WAF", "message": "Forbidden by rule 7"}}), "Forbidden by rule 7"),
        ((403, b"error code: 1010\n"), "error code: 1010"),
    ],
)
def test_a_gateway_keeps_its_words(data_api: Any, answer: Any, words: str) -> None:
    with (
        gateway(data_api.url, lambda n: answer) as (url, asked),
        HistoryStore.from_supabase(url, servers.SECRET_KEY) as store,
    ):
        with pytest.raises(HistoryError, match=words):
            store.load("x")
        assert len(asked) == 1


def test_a_refused_key_points_at_the_key(data_api: Any) -> None:
    refusal = (401, {"code": "PGRST301", "message": "JWT expired"})
    with (
        gateway(data_api.url, lambda n: refusal) as (url, _),
        HistoryStore.from_supabase(url, servers.SECRET_KEY) as store,
    ):
        with pytest.raises(Forbidden, match="SUPABASE_KEY"):
            store.load("x")
        with pytest.raises(Forbidden, match="fresh access token"):
            store.as_user(jwt.encode({"sub": "u"}, SECRET)).load("x")


def test_a_broken_protocol_is_tried_again(data_api: Any, session: str) -> None:
    class Broken(httpx.HTTPTransport):
        tries = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            Broken.tries += 1
            if Broken.tries == 1:
                raise httpx.LocalProtocolError("Invalid input ConnectionInputs.SEND_HEADERS in state CLOSED")
            return super().handle_request(request)

    with httpx.Client(transport=Broken()) as http:
        client = create_client(data_api.url, servers.SECRET_KEY, ClientOptions(httpx_client=http))
        assert isinstance(client.postgrest, SyncPostgrestClient)
        assert len(HistoryStore.from_client(client).append(session, QA)) == 2
    assert Broken.tries == 2


# --- clocks and other identity providers


def token(**claims: Any) -> str:
    now = int(time.time())
    return jwt.encode({"sub": "ada", "aud": "authenticated", "exp": now + 60, **claims}, SECRET)


def test_clocks_may_differ_by_half_a_minute(shared_database: str, session: str) -> None:
    now = int(time.time())
    with HistoryStore.from_postgres(shared_database, jwt_secret=SECRET) as store:
        for claims in ({"iat": now + 20}, {"nbf": now + 20}, {"exp": now - 20}):
            assert store.as_user(token(**claims)).load(session) == []
        with pytest.raises(Forbidden, match="clocks"):
            store.as_user(token(iat=now + 90)).load(session)
        with pytest.raises(Forbidden, match="expired"):
            store.as_user(token(exp=now - 90)).load(session)


def test_tokens_of_another_identity_provider(shared_database: str, session: str) -> None:
    own = jwt.encode({"sub": "user_2ab", "exp": int(time.time()) + 60}, SECRET)
    other = jwt.encode({"sub": "user_2ab", "aud": "my-project", "exp": int(time.time()) + 60}, SECRET)
    with HistoryStore.from_postgres(shared_database, jwt_secret=SECRET) as store:
        for given in (own, other):
            with pytest.raises(Forbidden, match=r"aud.*audience="):
                store.as_user(given).load(session)
    with HistoryStore.from_postgres(shared_database, jwt_secret=SECRET, audience=None) as store:
        assert store.as_user(own).load(session) == []
    with HistoryStore.from_postgres(shared_database, jwt_secret=SECRET, audience="my-project") as store:
        assert store.as_user(other).load(session) == []
        with pytest.raises(Forbidden):
            store.as_user(own).load(session)
