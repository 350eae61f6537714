"""Lists of sessions: every order and filter in pages, titles, labels, and what a page costs among many sessions."""

from __future__ import annotations

import io
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import (
    Forbidden,
    HistoryStore,
    InvalidInput,
    InvalidSession,
    NotFound,
    Session,
    Turn,
    migrate,
)
from tests import servers
from tests.conftest import Api

QA = [HumanMessage("question"), AIMessage("answer")]
ORDERS = ["activity", "-activity", "created", "-created", "title"]


def names(page: Any) -> list[str]:
    return [found.session_id for found in page]


def every(api: Any, **options: Any) -> list[Session]:
    """All pages of a listing."""
    found, cursor = [], None
    while True:
        page = api.sessions(cursor=cursor, **options)
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found


def test_a_session_shows_what_a_list_needs(api: Api, session: str) -> None:
    user = api.for_user(session)
    turn = Turn(uuid.uuid4(), total_tokens=12)
    user.append("s", [HumanMessage("What is the  capital\nof France?"), AIMessage("Paris")], turn=turn)
    user.append("s", [HumanMessage("And of Spain?"), AIMessage([{"type": "text", "text": "Madrid"}])])
    (found,) = user.sessions()
    assert found == user.session("s")
    assert found.title == "What is the capital of France?"
    assert (found.message_count, found.turn_count, found.total_tokens, found.excerpt) == (4, 2, 12, "Madrid")
    assert (found.tags, found.pinned, found.archived, found.forked_from) == ([], False, False, None)


def test_a_long_question_is_cut_at_a_word(store: HistoryStore, session: str) -> None:
    user = store.for_user(session)
    cases: dict[str, Any] = {
        "words": ("word " * 30, ("word " * 12).strip() + "…"),
        "one word": ("x" * 100, "x" * 59 + "…"),
        "as long as a title": ("y" * 60, "y" * 60),
        "only an image": ([{"type": "image", "base64": "aGk=", "mime_type": "image/png"}], None),
        "blank": (" \n ", None),
        "no text that JSON holds": ("nul\x00 and \ud800 \\", "nul and \\"),
    }
    for name, (content, title) in cases.items():
        user.append(name, [HumanMessage(content)])
        assert user.session(name).title == title, name
    user.append("no question", [AIMessage("hello")])
    assert (user.session("no question").title, user.session("no question").excerpt) == (None, "hello")


def test_a_payload_that_cannot_be_read_hides_no_list(shared_database: str, store: HistoryStore, session: str) -> None:
    user = store.for_user(session)
    user.append("s", [HumanMessage("q")])
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute(
            'update chat_history_messages set data = \'{"content": "\\ud800 \\u0000"}\' where user_id = %s', [session]
        )
    assert [(s.session_id, s.title, s.excerpt) for s in user.sessions()] == [("s", None, None)]


@pytest.mark.parametrize(
    "metadata", ['["conversations_table"]', '"conversations_table"', '{"a": "\\u0000"}', "1e999999"]
)
def test_metadata_that_cannot_be_read_hides_no_list(
    shared_database: str, store: HistoryStore, session: str, metadata: str
) -> None:
    """What a user has written past the functions into their own row does not stop the application's own listing."""
    for name in ("broken", "sound"):
        store.for_user(session).append(f"{session}-{name}", [HumanMessage("q")])
    store.for_user(session).update_session(f"{session}-sound", metadata={"team": "a"})
    with psycopg.connect(shared_database, autocommit=True) as conn:
        broken = [metadata, f"{session}-broken"]
        conn.execute("update chat_history_sessions set metadata = %s where session_id = %s", broken)
    assert len(store.sessions(prefix=session, all_users=True).items) == 2
    assert len(store.sessions(prefix=session, all_users=True, metadata={"team": "a"}).items) == 1


@pytest.mark.parametrize("question", ["5", '"x"', "[5]", "[{}]", '[{"type": 7, "data": null}]', "{}"])
def test_a_turn_that_cannot_be_read_hides_no_list(
    shared_database: str, store: HistoryStore, session: str, question: str
) -> None:
    ada = store.for_user(session)
    ada.append("s", [HumanMessage("q"), AIMessage("a")])
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute("update chat_history_turns set question = %s where user_id = %s", [question, session])
    assert len(ada.turns("s").items) == 1
    for format in ("markdown", "openai"):
        assert ada.export_sessions(io.BytesIO(), format=format).messages == 2


TIMES = {
    "sessions": ("created_at", "updated_at", "deleted_at"),
    "messages": ("created_at",),
    "turns": ("created_at", "started_at", "ended_at"),
    "feedback": ("created_at", "updated_at", "sent_at"),
    "alternatives": ("created_at",),
}


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, columns in TIMES.items() for column in columns]
)
def test_a_time_that_programs_cannot_read_is_stored_by_nobody(
    shared_database: str, postgres_store: HistoryStore, session: str, table: str, column: str
) -> None:
    stored = postgres_store.append(session, [HumanMessage("q"), AIMessage("a")])
    postgres_store.add_feedback(session, stored[0], "helpful", score=1)
    postgres_store.rewind_session(session, before=2)
    with psycopg.connect(shared_database, autocommit=True) as conn:
        for wrong in ("infinity", "-infinity", "0044-03-15 BC", "10000-01-01"):
            with pytest.raises(psycopg.errors.CheckViolation, match="times"):
                conn.execute(
                    f"update chat_history_{table} t set {column} = %s from chat_history_sessions s "
                    "where s.session_key = t.session_key and s.session_id = %s",
                    [wrong, session],
                )


@pytest.mark.parametrize("order", ORDERS)
def test_pages_hold_each_session_once_in_order(api: Api, session: str, order: str) -> None:
    user = api.for_user(session)
    for n in (3, 1, 4, 2, 0):
        user.append(f"s{n}", [HumanMessage(f"Ünïcode {n}")])
    user.append("s1", QA)
    user.update_session("s4", archived=True)
    whole = every(user, order=order, limit=50, archived=None)
    expected = {
        "activity": ["s1", "s0", "s2", "s4", "s3"],
        "-activity": ["s3", "s4", "s2", "s0", "s1"],
        "created": ["s0", "s2", "s4", "s1", "s3"],
        "-created": ["s3", "s1", "s4", "s2", "s0"],
        "title": ["s0", "s1", "s2", "s3", "s4"],
    }
    assert names(whole) == expected[order]
    assert every(user, order=order, limit=2, archived=None) == whole
    assert user.sessions(order=order, limit=5, archived=None).next_cursor is None
    assert names(every(user, order=order, limit=1)) == [name for name in expected[order] if name != "s4"]
    assert names(user.sessions(order=order, archived=True)) == ["s4"]


def test_filters(api: Api, session: str) -> None:
    user = api.for_user(session)
    for name, question in (("work-1", "Férias em Lisboa"), ("work-2", "Budget"), ("home%_", "Garden")):
        user.append(name, [HumanMessage(question)])
    user.update_session("work-1", tags=["travel", "urgent"], metadata={"team": "a", "n": 1})
    user.update_session("work-2", tags=["urgent"], metadata={"team": "b"}, title="Orçamento")
    middle = user.session("work-2").updated_at

    def found(query: str | None = None, **options: Any) -> set[str]:
        return set(names(user.sessions(query, **options)))

    assert found("ferias") == found("FÉRIAS EM") == {"work-1"}  # a title that nobody set
    assert found("orcam") == {"work-2"}
    assert found("budget") == set()  # a title that was replaced
    assert found("WORK-") == {"work-1", "work-2"}  # a session id
    assert found("%") == found("home%_") == {"home%_"}
    assert found("") == found() == {"work-1", "work-2", "home%_"}
    assert found(tags=["urgent"]) == {"work-1", "work-2"}
    assert found(tags=["urgent", "travel"]) == {"work-1"}
    assert found(tags=["'; drop table x"]) == set()
    assert found(metadata={"team": "a"}) == {"work-1"}
    assert found(metadata={"team": "a", "n": 2}) == set()
    assert found(prefix="work") == {"work-1", "work-2"}
    assert found(prefix="ork") == found(prefix="work%") == set()
    assert found(since=middle) == {"work-2", "home%_"}
    assert found(until=middle) == {"work-1"}
    assert found("o", tags=["urgent"], prefix="work", metadata={"team": "b"}) == {"work-2"}


def test_cleared_deleted_and_empty_sessions_do_not_appear(api: Api, session: str) -> None:
    user = api.for_user(session)
    for name in ("kept", "cleared", "deleted", "written again"):
        user.append(name, QA)
        user.update_session(name, title="t", tags=["x"], pinned=True)
    for name in ("cleared", "written again"):
        user.clear(name)
    user.append("written again", QA)
    user.delete_session("deleted")
    with pytest.raises(NotFound):
        user.update_session("deleted", title="back")
    assert set(names(user.sessions())) == {"kept", "written again"}
    user.append("deleted", QA)  # the name is used again, and nothing of the old one is left
    again = user.session("deleted")
    assert (again.title, again.tags, again.pinned) == ("question", [], False)


def test_what_does_not_appear_can_be_asked_for(api: Api, session: str) -> None:
    user = api.for_user(session)
    for name in ("shown", "cleared", "deleted"):
        user.append(name, [HumanMessage(name)])
    user.clear("cleared")
    user.delete_session("deleted")
    listed = {one.session_id: one for one in user.sessions(hidden=True)}
    assert listed.keys() == {"shown", "cleared", "deleted"}
    assert (listed["cleared"].message_count, listed["cleared"].deleted_at) == (0, None)
    assert listed["deleted"].deleted_at is not None
    assert listed["deleted"].title is None
    names, cursor = [], None
    while True:
        page = user.sessions(hidden=True, order="created", limit=1, cursor=cursor)
        names += [one.session_id for one in page]
        if (cursor := page.next_cursor) is None:
            break
    assert names == ["deleted", "cleared", "shown"]
    assert [one.session_id for one in user.sessions()] == ["shown"]


def test_an_update_changes_what_it_names(api: Api, session: str) -> None:
    user = api.for_user(session)
    user.append("s", QA)
    before = user.session("s")
    changed = user.update_session("s", title="Title", tags=["b", "a", "b"], metadata={"a": 1, "b": {"c": None}})
    assert (changed.title, changed.tags, changed.metadata) == ("Title", ["b", "a"], {"a": 1, "b": {"c": None}})
    assert (changed.updated_at, changed.revision) == (before.updated_at, before.revision + 1)
    changed = user.update_session("s", metadata={"a": None, "d": datetime(2026, 1, 1, tzinfo=UTC)}, pinned=True)
    assert changed.metadata == {"b": {"c": None}, "d": datetime(2026, 1, 1, tzinfo=UTC)}
    assert (changed.title, changed.tags, changed.pinned, changed.archived) == ("Title", ["b", "a"], True, False)
    assert user.update_session("s", title=None, tags=[], pinned=False, archived=True).title == "question"
    assert user.session("s").tags == []
    assert user.load("s") == QA
    with pytest.raises(NotFound):
        user.update_session("unknown", title="x")
    with pytest.raises(InvalidInput, match="64 KB"):
        user.update_session("s", metadata={"a": "x" * 70_000})
    assert "a" not in user.session("s").metadata


@pytest.mark.parametrize(
    "change",
    [
        {"title": ""},
        {"title": "x" * 1001},
        {"title": 7},
        {"tags": "text"},
        {"tags": [""]},
        {"tags": ["x"] * 101},
        {"metadata": None},
        {"metadata": {1: 2}},
        {"metadata": {"a": object()}},
        {"pinned": 1},
        {"archived": None},
    ],
)
def test_bad_changes_are_refused(store: HistoryStore, session: str, change: dict[str, Any]) -> None:
    store.append(session, QA)
    before = store.session(session)
    with pytest.raises(InvalidInput):
        store.update_session(session, **change)
    assert store.session(session) == before


def test_bad_listings_are_refused(store: HistoryStore, session: str) -> None:
    user = store.for_user(session)
    for name in ("a", "b"):
        user.append(name, QA)
    cursor = user.sessions(limit=1).next_cursor
    for options in ({"cursor": cursor, "order": "created"}, {"cursor": "x"}, {"cursor": cursor[:-4]}, {"cursor": "é"}):  # type: ignore[index]
        with pytest.raises(InvalidSession, match="cursor"):
            user.sessions(**options)
    wrong: list[Any] = [{"order": "newest"}, {"tags": "x"}, {"metadata": []}, {"archived": "no"}, {"all_users": 1}]
    for options in wrong:
        with pytest.raises(InvalidInput):
            user.sessions(**options)
    with pytest.raises(InvalidInput, match="one user's"):
        user.sessions(all_users=True)


def test_all_users_is_for_the_application(store: HistoryStore, session: str, users: list[tuple[str, str]]) -> None:
    for user_id in (f"a-{session}", f"b-{session}"):
        store.for_user(user_id).append(session, QA)
    assert {s.user_id for s in every(store, all_users=True, prefix=session, limit=1)} == {
        f"a-{session}",
        f"b-{session}",
    }
    assert names(store.sessions(prefix=session)) == []
    with pytest.raises(Forbidden, match="only the application"):
        store.as_user(users[0][1]).sessions(all_users=True)


# --- what a page costs

FILL = """
insert into chat_history_sessions
    (session_key, user_id, session_id, last_position, message_count, last_turn, archived, created_at, updated_at)
  select chat_history_key(u, 's' || i), u, 's' || i, 2, 2, 1, i %% 10 = 0,
      '2026-01-01Z'::timestamptz + (i * 7919 %% %(n)s) * interval '1 second',
      '2026-02-01Z'::timestamptz + i * interval '1 second'
    from unnest(array['grace', 'other']) u, generate_series(1, %(n)s) i;
"""
MESSAGES = """
insert into chat_history_messages (session_key, user_id, position, id, turn_id, type, data, tokens, begins_turn)
  select s.session_key, s.user_id, p, gen_random_uuid(), md5(s.session_key::text)::uuid,
      (array['human', 'ai'])[1 + (p - 1) %% 2], json_build_object('content', 'text ' || p), 5, p = 1
    from chat_history_sessions s, generate_series(1, %(messages)s) p where s.user_id = 'grace';
"""


def fill(conninfo: str, n: int, messages: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        for table in ("sessions", "messages"):  # nobody changes what the planner knows behind the test's back
            conn.execute(f"alter table chat_history_{table} set (autovacuum_enabled = off)".encode())
        conn.execute(FILL, {"n": n})
        conn.execute(MESSAGES, {"messages": messages})


def buffers(conn: psycopg.Connection[Any], call: str) -> int:
    """The pages that a call reads, as EXPLAIN counts them: as the application or as the user, whichever are more."""
    read = []
    for role in (None, "authenticated"):
        with conn.transaction():
            if role:
                conn.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": "grace"})])
                conn.execute(f"set local role {role}".encode())
            # The least of three: a first call, and one that meets another session's change, read the catalog too.
            explain = f"explain (analyze, buffers, format json) select {call}".encode()
            plans = [conn.execute(explain).fetchall()[0][0][0]["Plan"] for _ in range(3)]
        read.append(min(int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]) for plan in plans))
    return max(read)


def check_pages(conninfo: str, n: int, messages: int, analyze: bool) -> None:
    fill(conninfo, n, messages)
    with HistoryStore.from_postgres(conninfo) as store, psycopg.connect(conninfo, autocommit=True) as conn:
        if analyze:
            conn.execute("vacuum analyze")
        user = store.for_user("grace")
        for order in ORDERS[:4]:
            for options in ({}, {"archived": True}, {"archived": None}):
                first = user.sessions(order=order, limit=20, **options)  # type: ignore[arg-type]
                assert len(first) == 20
                at = "updated_at" if order.endswith("activity") else "created_at"
                newest_first = not order.startswith("-")
                which = {"{}": "not archived", "{'archived': True}": "archived"}.get(str(options), "true")
                # Where the last page begins: behind all but twenty.
                query = (
                    f"select to_json({at})::text, session_key from chat_history_sessions where user_id = 'grace' and "
                    f"{which} order by {at} {'' if newest_first else 'desc'} offset 20 limit 1"
                )
                last_at, key = conn.execute(query.encode()).fetchone() or ("", "")
                archived = options.get("archived", False)
                call = (
                    f"chat_history_list_sessions(user_id => 'grace', max_items => 20, sort => '{order}', archived => "
                    f"{'null' if archived is None else archived}"
                )
                after = json.dumps({"at": json.loads(last_at), "key": str(key)})
                costs = [buffers(conn, f"{call})"), buffers(conn, f"{call}, after => '{after}')")]
                assert max(costs) < 20 * 40, (order, options, costs)
                assert costs[1] <= 1.5 * costs[0] + 20, (order, options, costs)
        page = user.sessions(since=datetime(2026, 2, 1, tzinfo=UTC) + timedelta(seconds=5), order="-activity", limit=3)
        assert names(page) == ["s5", "s6", "s7"]


@pytest.mark.parametrize("analyze", [True, False])
def test_a_page_reads_no_more_of_many_sessions(pg: servers.Postgres, analyze: bool) -> None:
    check_pages(pg.url(pg.create_database("template_history")), 5000, 2, analyze)


@pytest.mark.soak
@pytest.mark.parametrize("version", [15, 18])
def test_a_page_reads_no_more_of_100_000_sessions_and_a_million_messages(
    request: pytest.FixtureRequest, version: int
) -> None:
    server: servers.Postgres = request.getfixturevalue("pg15" if version == 15 else "pg")
    conninfo = server.url(server.create_database())
    migrate(conninfo)
    check_pages(conninfo, 100_000, 10, analyze=True)
