"""Feedback in both places, links, usage, and the views for dashboards."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import (
    Forbidden,
    HistoryStore,
    InvalidInput,
    NotFound,
    StoredMessage,
    Turn,
    Unavailable,
    Usage,
)
from langchain_supabase_history.commands.main import main
from langchain_supabase_history.langsmith.client import LangSmith
from langchain_supabase_history.operations.usage import set_costs
from tests import servers
from tests.conftest import Api
from tests.langsmith_server import (  # noqa: F401
    LangSmithServer,
    environment,
    flush,
    langsmith_server,
    smith_fixture,
    tracing,
    with_langsmith,
)
from tests.metered import KEYS, PARSED
from tests.shapes import config_of

QA = [HumanMessage("question"), AIMessage("answer")]
DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(store: HistoryStore) -> Iterator[HistoryStore]:
    """A store over each transport that has not spoken to a LangSmith of another test."""
    smith = LangSmith()
    yield with_langsmith(store, smith)
    smith.close()


@pytest.fixture
def own(database: str) -> Any:
    """A store with a database of its own."""
    with HistoryStore.from_postgres(database) as store:
        yield store


def a_turn(store: Any, session: str, **fields: Any) -> Turn:
    turn_id = uuid.uuid4()
    store.append(session, QA, turn=Turn(turn_id, **fields))
    found: Turn = next(turn for turn in store.turns(session) if turn.id == turn_id)
    return found


def traced_turn(store: HistoryStore, session: str, smith: LangSmithServer) -> Turn:
    store.with_history(PARSED, **KEYS).invoke({"input": "q"}, config_of(session))
    flush(smith)
    return list(store.turns(session))[-1]


# --- feedback


def test_feedback_without_a_trace_stays_here(api: Api, session: str) -> None:
    turn = a_turn(api, session)
    message = list(api.messages(session))[1]
    on_turn = api.add_feedback(session, turn, "helpful", score=1, comment="well said")
    on_message = api.add_feedback(session, message, "helpful", value={"choice": ["a", None, "nul \x00"]})
    assert (on_turn.turn_id, on_turn.message_id, on_turn.score, on_turn.comment) == (turn.id, None, 1.0, "well said")
    assert (on_message.turn_id, on_message.message_id) == (turn.id, message.id)
    assert on_message.value == {"choice": ["a", None, "nul \x00"]}
    assert (on_turn.sent_at, on_turn.unsent) == (None, False)
    assert list(api.feedback(session)) == [on_turn, on_message]


@pytest.mark.parametrize("value", ["label", "", 3, 2.5, True, {"a": 1}, None, '{"a": 1}'])
def test_values_of_every_kind_come_back(api: Api, session: str, value: Any) -> None:
    api.add_feedback(session, a_turn(api, session), "kind", value=value)
    (found,) = api.feedback(session)
    assert found.value == value
    assert type(found.value) is type(value)


def test_a_changed_mind_replaces(api: Api, session: str) -> None:
    turn = a_turn(api, session)
    first = api.add_feedback(session, turn, "helpful", score=0, comment="no")
    again = api.add_feedback(session, turn, "helpful", score=0, comment="no")
    assert again == first
    changed = api.add_feedback(session, turn, "helpful", score=1)
    assert (changed.id, changed.created_at, changed.score, changed.comment) == (first.id, first.created_at, 1.0, None)
    assert changed.updated_at > first.updated_at
    assert list(api.feedback(session)) == [changed]


def test_feedback_comes_in_pages_and_goes_with_its_turns(api: Api, session: str) -> None:
    turn = a_turn(api, session)
    for n in range(5):
        api.add_feedback(session, turn, f"key-{n}", score=n)
    seen, cursor = [], None
    while True:
        page = api.feedback(session, limit=2, cursor=cursor)
        seen += [item.key for item in page]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [f"key-{n}" for n in range(5)]
    api.clear(session)
    assert list(api.feedback(session)) == []
    with pytest.raises(NotFound, match="no such turn"):
        api.add_feedback(session, turn, "late", score=1)
    api.delete_session(session)
    assert list(api.feedback(session)) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"key": ""},
        {"key": "x" * 201},
        {"key": 3},
        {"key": "nul\x00"},
        {"score": "high"},
        {"score": float("nan")},
        {"value": ["list"]},
        {"value": object()},
        {"value": {"a": object()}},
        {"comment": "x" * 10_001},
        {"comment": "\ud800"},
        {"comment": 1},
    ],
)
def test_bad_feedback_is_refused(api: Api, session: str, bad: dict[str, Any]) -> None:
    turn = a_turn(api, session)
    with pytest.raises(InvalidInput):
        api.add_feedback(session, turn, **{"key": "helpful", **bad})
    assert list(api.feedback(session)) == []


def test_feedback_is_on_what_the_session_has(api: Api, session: str) -> None:
    turn = a_turn(api, session)
    message = next(iter(api.messages(session)))
    with pytest.raises(InvalidInput, match="StoredMessage or a Turn"):
        api.add_feedback(session, "the turn", "helpful", score=1)
    for other in (f"{session}-other", session):
        with pytest.raises(NotFound, match="no such turn"):
            api.add_feedback(other, Turn(uuid.uuid4()), "helpful", score=1)
    with pytest.raises(NotFound, match="no such message"):
        api.add_feedback(session, StoredMessage(uuid.uuid4(), 1, DAY, turn.id, message.message), "helpful", score=1)
    with pytest.raises(NotFound):
        api.session(f"{session}-other")  # asking did not make it


def test_users_judge_their_own_turns_only(
    data_api: servers.Lite, postgres_store: HistoryStore, users: list[tuple[str, str]], session: str
) -> None:
    (ada, ada_token), (_, bob_token) = users
    with HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as public:
        for store in (postgres_store, public):
            hers, his = store.as_user(ada_token), store.as_user(bob_token)
            turn = a_turn(hers, session)
            hers.add_feedback(session, turn, "helpful", score=1)
            with pytest.raises(NotFound):
                his.add_feedback(session, turn, "helpful", score=0)
            with pytest.raises(Forbidden):
                his.for_user(ada).add_feedback(session, turn, "helpful", score=0)
            with pytest.raises(Forbidden):
                his.for_user(ada).feedback(session)
            assert list(his.feedback(session)) == []
        with pytest.raises(Forbidden):
            public.feedback(session)


def test_langsmith_is_told_under_the_project_with_the_roots_start(
    store: HistoryStore, session: str, smith: LangSmithServer
) -> None:
    turn = traced_turn(store, session, smith)
    message = list(store.messages(session))[1]
    one = store.add_feedback(session, turn, "helpful", score=0.5, value="maybe", comment="hm")
    two = asyncio.run(store.aadd_feedback(session, message, "correct", score=1))
    for given in (one, two):
        assert not given.unsent
        assert given.sent_at is not None
        told = smith.feedback[str(given.id)]
        assert (told["run_id"], told["key"], told["score"]) == (turn.trace_id, given.key, given.score)
        assert told["session_id"] == smith.projects["tests"]
        assert told["start_time"][:26] == smith.runs[turn.trace_id or ""]["start_time"][:26]
    assert smith.feedback[str(one.id)]["value"] == "maybe"
    assert smith.feedback[str(one.id)]["comment"] == "hm"
    assert smith.paths("GET").count("/sessions") == 1  # the name was resolved once
    changed = store.add_feedback(session, turn, "helpful", score=1)
    assert not changed.unsent
    assert smith.feedback[str(one.id)]["score"] == 1
    assert smith.feedback[str(one.id)]["value"] is smith.feedback[str(one.id)]["comment"] is None
    assert len(smith.feedback) == 2
    found = list(store.feedback(session))
    assert [(item.key, item.unsent) for item in found] == [("helpful", False), ("correct", False)]


@pytest.mark.parametrize("behave", ["429", "500", "garbage", 30.0])
@pytest.mark.parametrize("project_known", [False, True], ids=["project unknown", "project known"])
def test_feedback_arrives_when_langsmith_is_back(
    store: HistoryStore,
    session: str,
    smith: LangSmithServer,
    monkeypatch: pytest.MonkeyPatch,
    behave: str | float,
    project_known: bool,
) -> None:
    monkeypatch.setattr("langchain_supabase_history.langsmith.client._READ_MS", 300)
    turn = traced_turn(store, session, smith)
    other = traced_turn(store, f"{session}-other", smith)
    if project_known:
        store.langsmith.project_id("tests")
    smith.behave = behave
    began = time.monotonic()
    away = store.add_feedback(session, turn, "helpful", score=1)
    assert time.monotonic() - began < 2  # it waits no longer than it is told to
    assert away.unsent
    assert away.sent_at is None
    assert not smith.feedback
    assert store.add_feedback(session, turn, "helpful", score=0).unsent  # changed its mind meanwhile
    smith.behave = "well"
    store.add_feedback(f"{session}-other", other, "helpful", score=1)
    assert {item["run_id"]: item["score"] for item in smith.feedback.values()} == {turn.trace_id: 0, other.trace_id: 1}
    (sent,) = store.feedback(session)
    assert (sent.unsent, sent.score) == (False, 0.0)
    assert sent.sent_at is not None


def test_feedback_with_no_langsmith_at_all(store: HistoryStore, session: str) -> None:
    with tracing(f"http://127.0.0.1:{servers.free_port()}", on=False):
        turn = a_turn(store, session, trace_id=str(uuid.uuid4()), run_id=str(uuid.uuid4()), project="tests")
        assert store.add_feedback(session, turn, "helpful", score=1).unsent
        assert len(store.feedback(session)) == 1


def test_a_run_that_langsmith_refuses_does_not_hold_up_the_others(own: HistoryStore, smith: LangSmithServer) -> None:
    unknown = a_turn(own, "s", trace_id=str(uuid.uuid4()), run_id=str(uuid.uuid4()), project="no such project")
    for n in range(25):
        own.add_feedback("s", unknown, f"refused-{n}", score=n)
    turn = traced_turn(own, "t", smith)
    assert not own.add_feedback("t", turn, "helpful", score=1).unsent
    for n in range(12):
        own.add_feedback("t", turn, "helpful", score=n)
    assert len(smith.feedback) == 1
    tried = [item.unsent for item in own.feedback("s")]
    assert len(tried) == 25
    assert tried.count(False) >= 10  # given up after ten refusals
    assert not own.add_feedback("t", turn, "another", score=1).unsent


def test_a_feedback_that_came_twice_is_known_by_its_id(
    own: HistoryStore, database: str, smith: LangSmithServer
) -> None:
    turn = traced_turn(own, "s", smith)
    given = own.add_feedback("s", turn, "helpful", score=1)
    with psycopg.connect(database, autocommit=True) as conn:  # as if the process had died before it noted that
        conn.execute("update chat_history_feedback set sent_at = null, unsent = true")
    assert not own.add_feedback("s", turn, "helpful", score=1).unsent
    assert list(smith.feedback) == [str(given.id)]
    smith.feedback.clear()  # removed over there
    assert not own.add_feedback("s", turn, "helpful", score=0).unsent
    assert smith.feedback[str(given.id)]["score"] == 0


# --- links


def test_a_turn_has_an_address(store: HistoryStore, session: str, smith: LangSmithServer) -> None:
    turn = traced_turn(store, session, smith)
    url = store.trace_url(turn)
    assert url is not None
    assert url.endswith(f"/projects/p/{smith.projects['tests']}/r/{turn.run_id}")
    assert asyncio.run(store.atrace_url(turn)) == url
    assert store.trace_url(a_turn(store, session)) is None
    gone = Turn(uuid.uuid4(), trace_id=str(uuid.uuid4()), project="tests")
    with pytest.raises(NotFound, match="LangSmith does not know"):
        store.trace_url(gone)
    with pytest.raises(NotFound, match="'elsewhere'"):
        store.trace_url(Turn(uuid.uuid4(), trace_id=str(uuid.uuid4()), project="elsewhere"))


def test_an_address_that_cannot_be_asked_for(session: str, database: str) -> None:
    with langsmith_server() as smith, tracing(smith.url), HistoryStore.from_postgres(database) as store:
        turn = traced_turn(store, session, smith)
        store.trace_url(turn)
        for behave in ("429", "500", "garbage"):
            smith.behave = behave
            with pytest.raises(Unavailable, match="LangSmith did not give"):
                store.trace_url(turn)


# --- usage


def spend(store: Any, prefix: str = "") -> None:
    """Turns of two users, two models, two days; one unmeasured, one failed."""
    ada, bob = store.for_user(f"{prefix}ada"), store.for_user(f"{prefix}bob")
    a_turn(ada, "s1", model="m1", input_tokens=10, output_tokens=1, total_tokens=11, started_at=DAY, total_cost=0.25)
    a_turn(ada, "s1", model="m2", input_tokens=20, output_tokens=2, total_tokens=22, started_at=DAY + timedelta(days=1))
    a_turn(ada, "s2", model="m1", started_at=DAY)
    a_turn(bob, "s1", model="m1", input_tokens=40, output_tokens=4, total_tokens=44, started_at=DAY, status="failed")


def test_usage_sums_what_is_known(own: HistoryStore) -> None:
    spend(own)
    assert own.usage() == [Usage(4, 1, 1, 70, 7, 77, 0.25)]
    assert asyncio.run(own.ausage(user_id="bob")) == [Usage(1, 1, 0, 40, 4, 44, None)]
    assert own.for_user("ada").usage(session_id="s2") == [Usage(1, 0, 1, None, None, None, None)]
    assert own.usage(session_id="s1") == [Usage(0, 0, 0, None, None, None, None)]  # the application's own
    assert own.usage(since=DAY + timedelta(hours=1)) == [Usage(1, 0, 0, 20, 2, 22, None)]
    assert own.usage(until=DAY) == [Usage(0, 0, 0, None, None, None, None)]
    assert own.usage(group_by="user") == [
        Usage(3, 0, 1, 30, 3, 33, 0.25, user_id="ada"),
        Usage(1, 1, 0, 40, 4, 44, None, user_id="bob"),
    ]
    assert own.usage(group_by=["model", "day"]) == [
        Usage(3, 1, 1, 50, 5, 55, 0.25, model="m1", day=date(2026, 3, 1)),
        Usage(1, 0, 0, 20, 2, 22, None, model="m2", day=date(2026, 3, 2)),
    ]
    assert [(u.user_id, u.session_id, u.turns) for u in own.usage(group_by="session")] == [
        ("ada", "s1", 2),
        ("ada", "s2", 1),
        ("bob", "s1", 1),
    ]
    own.for_user("ada").clear("s1")
    assert own.usage()[0].turns == 4  # spent is spent
    own.for_user("ada").delete_session("s1")
    assert own.usage()[0].turns == 2
    assert own.usage(group_by="day", since=DAY + timedelta(days=9)) == []


def test_usage_over_every_driver(api: Api, session: str) -> None:
    spend(api, session)
    (of_ada,) = api.usage(user_id=f"{session}ada", since=DAY, until=DAY + timedelta(days=2))
    assert of_ada == Usage(3, 0, 1, 30, 3, 33, 0.25)
    by_day = api.for_user(f"{session}ada").usage(group_by=("day",))
    assert [(u.day, u.total_tokens) for u in by_day] == [(date(2026, 3, 1), 11), (date(2026, 3, 2), 22)]
    with pytest.raises(InvalidInput, match="group_by"):
        api.usage(group_by="week")
    with pytest.raises(InvalidInput, match="since"):
        api.usage(since=datetime(2026, 1, 1))
    with pytest.raises(InvalidInput, match="total_cost"):
        api.append(session, QA, turn=Turn(uuid.uuid4(), total_cost=-1))


def test_users_see_their_own_usage_and_views(
    data_api: servers.Lite,
    postgres_store: HistoryStore,
    shared_database: str,
    users: list[tuple[str, str]],
    session: str,
) -> None:
    (ada, ada_token), (bob, bob_token) = users
    a_turn(postgres_store.for_user(ada), session, total_tokens=5)
    with HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as public:
        for store in (postgres_store, public):
            assert store.as_user(ada_token).usage(session_id=session)[0].total_tokens == 5
            assert {u.user_id for u in store.as_user(ada_token).usage(group_by="user")} == {ada}
            assert store.as_user(bob_token).usage(session_id=session)[0].turns == 0
            with pytest.raises(Forbidden):
                store.as_user(bob_token).usage(user_id=ada)
            cost = {"session_id": session, "user_id": ada, "turn_id": str(uuid.uuid4()), "total_cost": 1}
            as_bob = store.as_user(bob_token)
            with pytest.raises(Forbidden):
                as_bob.run(set_costs(as_bob.scope, [cost]))
        with pytest.raises(Forbidden):
            public.usage()
    for view in ("chat_history_daily_usage", "chat_history_session_usage", "chat_history_feedback_summary"):
        with psycopg.connect(shared_database) as conn:
            conn.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": bob})])
            conn.execute("set local role authenticated")
            seen = {row[0] for row in conn.execute(f"select user_id from {view}").fetchall()}
            assert seen <= {bob}
        with psycopg.connect(shared_database) as conn:
            conn.execute("set local role anon")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(f"select * from {view}")
        with psycopg.connect(shared_database) as conn:
            conn.execute("set local role authenticated")
            with pytest.raises(psycopg.errors.Error):
                conn.execute(f"delete from {view}")


def test_views_show_what_the_turns_hold(own: HistoryStore, database: str) -> None:
    spend(own)
    turn = next(iter(own.for_user("ada").turns("s1")))
    own.for_user("ada").add_feedback("s1", turn, "helpful", score=1, comment="yes")
    with psycopg.connect(database) as conn:
        day = conn.execute(
            "select turns, unmeasured_turns, total_tokens, total_cost from chat_history_daily_usage "
            "where user_id = 'ada' and model = 'm1'"
        ).fetchone()
        assert day is not None
        assert (day[0], day[1], day[2], float(day[3])) == (2, 1, 11, 0.25)
        sessions = conn.execute(
            "select user_id, session_id, turns, total_tokens from chat_history_session_usage order by 1, 2"
        ).fetchall()
        assert sessions == [("ada", "s1", 2, 33), ("ada", "s2", 1, None), ("bob", "s1", 1, 44)]
        assert conn.execute(
            "select user_id, key, given, average_score, comments, unsent from chat_history_feedback_summary"
        ).fetchall() == [("ada", "helpful", 1, 1.0, 1, 0)]


def test_usage_as_a_command(own: HistoryStore, database: str, smith: LangSmithServer) -> None:
    spend(own)
    turn = traced_turn(own, "s3", smith)
    runner = CliRunner(env={"SUPABASE_DB_URL": database})
    shown = runner.invoke(main, ["usage", "--by", "user", "--by", "day"], catch_exceptions=False)
    assert shown.exit_code == 0
    (line,) = [line for line in shown.stdout.splitlines() if "bob" in line]
    assert line.split("\t")[:3] == ["bob", "2026-03-01", "1"]
    assert line.split("\t")[-1] == "-"  # its cost is unknown
    before = json.loads(runner.invoke(main, ["usage", "--json"], catch_exceptions=False).stdout)
    assert (before[0]["turns"], before[0]["total_cost"]) == (5, 0.25)
    smith.runs[turn.run_id or ""]["total_cost"] = 0.5
    asked = runner.invoke(main, ["usage", "--json", "--with-langsmith"], catch_exceptions=False)
    assert "cost of 1 turns" in asked.stderr
    assert json.loads(asked.stdout)[0]["total_cost"] == 0.75
    again = runner.invoke(main, ["usage", "--json", "--with-langsmith"], catch_exceptions=False)
    assert "cost of 0 turns" in again.stderr
    assert next(t for t in own.turns("s3") if t.id == turn.id).total_cost == 0.5
    one = runner.invoke(main, ["usage", "--json", "--user", "ada", "--since", "2026-03-02"], catch_exceptions=False)
    assert json.loads(one.stdout)[0]["total_tokens"] == 22
    smith.behave = "500"
    failed = runner.invoke(main, ["usage", "--with-langsmith"], env=environment(smith.url))
    assert failed.exit_code == 0  # nothing was left to ask for
