"""What the doctor says of grants and row level security, over both transports."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from langchain_supabase_history import migrate
from tests import servers
from tests.doctor.helpers import complaints, examine, execute, fix, only, sound

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
    fix(database, finding)
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
        fix(database, finding)
    sound(examine(db_url=database))


def test_a_service_role_without_grants(patient: tuple[str, servers.Lite]) -> None:
    database, api = patient
    execute(database, "revoke execute on all functions in schema public from service_role")
    finding = only(examine(url=api.url, key=servers.SECRET_KEY))
    assert (finding.name, finding.says) == ("grants", "The role may not call this library's functions.")
    fix(database, finding)
    execute(database, "revoke select on chat_history_messages from service_role")
    found = examine(url=api.url, key=servers.SECRET_KEY)
    assert {finding.name for finding in complaints(found)} == {"grants", "round trip"}
    assert "service_role may not select on chat_history_messages." in complaints(found)[0].says
    fix(database, complaints(found)[0])
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
    assert "triggers" in finding.fix
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
    assert f"chat_history_grant('{role}');" in finding.fix
    fix(empty_database, finding)
    found = examine(db_url=url, schema=schema)
    assert any(f"as {role}, held to row level security" in finding.says for finding in found)
    finding = only(found)
    assert finding.name == "round trip"
    assert "as_user" in finding.fix
    assert "public key" not in finding.fix
    first, others = finding.fix.split("  (or: ")
    assert first == f'grant postgres to "{role}";'
    execute(empty_database, first if way == "grant" else others.split("  ")[0])
    assert not complaints(examine(db_url=url, schema=schema))
    execute(empty_database, f'drop owned by "{role}"; drop role "{role}"')
