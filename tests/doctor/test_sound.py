"""The doctor on sound installations: nothing to complain of."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from supabase import ClientOptions, acreate_client, create_client

from langchain_supabase_history import HistoryStore, migrate
from tests import servers
from tests.doctor.helpers import LATEST, complaints, examine, execute, fix, only, sound


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
        fix(url, finding)
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
