"""How an application is used: beside plain arithmetic over the same turns, over every driver, for who may see it."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import (
    Activity,
    Analytics,
    DocumentUse,
    FeedbackSummary,
    Forbidden,
    HistoryStore,
    InvalidInput,
    Turn,
)
from tests.conftest import Api


def approx(value: float | None) -> Any:
    return pytest.approx(value)


QA = [HumanMessage("question"), AIMessage("answer")]
DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def own(database: str) -> Iterator[HistoryStore]:
    """A store with a database of its own."""
    with HistoryStore.from_postgres(database) as store:
        yield store


def turns() -> st.SearchStrategy[Turn]:
    sources = st.sampled_from(["a.md", "b.md", "c.md"])
    documents = st.lists(
        st.one_of(st.builds(lambda s: {"source": s, "id": "1"}, sources), st.builds(lambda s: {"id": s}, sources))
    )
    starts = st.integers(0, 60 * 72).map(lambda minutes: DAY + timedelta(minutes=minutes))
    return st.builds(
        lambda started, took, **fields: Turn(
            uuid.uuid4(), started_at=started, ended_at=took and started + timedelta(milliseconds=took), **fields
        ),
        starts,
        st.none() | st.integers(1, 60_000),
        status=st.sampled_from(["completed", "completed", "failed", "interrupted"]),
        model=st.sampled_from([None, "m1", "m2"]),
        input_tokens=st.none() | st.integers(0, 1000),
        total_tokens=st.none() | st.integers(0, 1000),
        total_cost=st.none() | st.integers(0, 8).map(lambda eighths: eighths / 8),
        documents=st.none() | documents,
        metadata=st.just({}) | st.integers(0, 1000).map(lambda ms: {"first_token_seconds": ms / 1000}),
    )


def percentile(values: list[float], share: float) -> float | None:
    """The continuous one: between two values, it is on the line from one to the other."""
    if not values:
        return None
    ordered, at = sorted(values), share * (len(values) - 1)
    low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
    return low + (high - low) * (at - math.floor(at))


def known(values: Sequence[Any]) -> Any:
    found = [value for value in values if value is not None]
    return sum(found) if found else None


def activity(done: list[tuple[str, str, Turn]], **group: Any) -> Activity:
    """By plain arithmetic: of (user, session, turn)."""
    of = [turn for _, _, turn in done]
    completed = [turn for turn in of if turn.status == "completed"]
    seconds = [(t.ended_at - t.started_at).total_seconds() for t in completed if t.ended_at and t.started_at]
    first = [t.metadata["first_token_seconds"] for t in completed if t.metadata]
    return Activity(
        turns=len(of),
        failed_turns=sum(turn.status == "failed" for turn in of),
        interrupted_turns=sum(turn.status == "interrupted" for turn in of),
        unmeasured_turns=sum(turn.total_tokens is None for turn in of),
        sessions=len({(user, session) for user, session, _ in done}),
        users=len({user for user, _, _ in done if user}),
        input_tokens=known([turn.input_tokens for turn in of]),
        output_tokens=None,
        total_tokens=known([turn.total_tokens for turn in of]),
        total_cost=known([turn.total_cost for turn in of]),
        median_seconds=approx(percentile(seconds, 0.5)),
        p95_seconds=approx(percentile(seconds, 0.95)),
        median_first_token_seconds=approx(percentile(first, 0.5)),
        p95_first_token_seconds=approx(percentile(first, 0.95)),
        **group,
    )


def expected(done: list[tuple[str, str, Turn]], zone: str) -> Analytics:
    def day(turn: Turn) -> date:
        assert turn.started_at is not None
        return turn.started_at.astimezone(ZoneInfo(zone)).date()

    models = Counter(turn.model for _, _, turn in done)
    documents = Counter[str]()
    for _, _, turn in done:
        documents.update({document.get("source") or document["id"] for document in turn.documents or ()})
    return Analytics(
        total=activity(done),
        days=[activity([d for d in done if day(d[2]) == one], day=one) for one in sorted({day(t) for *_, t in done})],
        models=[
            activity([d for d in done if d[2].model == model], model=model)
            for model in sorted(models, key=lambda model: (-models[model], model is None, model))
        ],
        feedback=[],
        documents=[DocumentUse(*use) for use in sorted(documents.items(), key=lambda use: (-use[1], use[0]))[:2]],
        documents_since=None,
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    done=st.lists(st.tuples(st.sampled_from(["", "ada", "bob"]), st.sampled_from(["s1", "s2"]), turns()), max_size=12),
    zone=st.sampled_from(["UTC", "America/Sao_Paulo", "Pacific/Auckland"]),
)
def test_it_is_what_arithmetic_says(own: HistoryStore, done: list[tuple[str, str, Turn]], zone: str) -> None:
    conninfo = own.driver._conninfo  # type: ignore[attr-defined]
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute("truncate chat_history_sessions cascade")
    for user, session, turn in done:
        (own.for_user(user) if user else own).append(session, QA, turn=turn)
    assert own.analytics(time_zone=zone, documents=2) == expected(done, zone)
    of_ada = [one for one in done if one[0] == "ada"]
    assert own.for_user("ada").analytics(time_zone=zone, documents=2) == expected(of_ada, zone)
    since, until = DAY + timedelta(hours=20), DAY + timedelta(hours=60)
    between = [one for one in done if since <= one[2].started_at < until]  # type: ignore[operator]
    assert own.analytics(since=since, until=until, time_zone=zone, documents=2) == expected(between, zone)


def test_over_every_driver(api: Api, session: str) -> None:
    ada, bob = api.for_user(f"{session}-ada"), api.for_user(f"{session}-bob")
    turn = Turn(
        uuid.uuid4(),
        model="m1",
        total_tokens=11,
        started_at=DAY,
        ended_at=DAY + timedelta(seconds=2),
        documents=[{"source": "a.md"}, {"source": "a.md"}, {"id": "7", "source": ""}],
        metadata={"first_token_seconds": 0.5},
    )
    stored = ada.append("s", QA, turn=turn)
    ada.add_feedback("s", stored[0], key="helpful", score=1)
    ada.add_feedback("s", stored[1], key="helpful", score=0, comment="wrong")
    bob.append("s", QA, turn=Turn(uuid.uuid4(), status="failed", started_at=DAY))
    found = api.analytics(user_id=f"{session}-ada", time_zone="America/Sao_Paulo")
    one = Activity(1, 0, 0, 0, 1, 1, None, None, 11, None, 2, 2, 0.5, 0.5)
    (of_day,), (of_model,) = found.days, found.models
    assert (found.total, of_day.day, of_model.model) == (one, DAY.date(), "m1")
    assert found.feedback == [FeedbackSummary("helpful", 2, 0.5, 1)]
    assert found.documents == [DocumentUse("7", 1), DocumentUse("a.md", 1)]
    assert ada.analytics(documents=0).documents == []
    assert bob.analytics().total.failed_turns == 1
    nothing = bob.analytics(until=DAY)
    assert (nothing.total.turns, nothing.total.total_tokens, nothing.days, nothing.models) == (0, None, [], [])
    with pytest.raises(InvalidInput, match="time zone"):
        api.analytics(time_zone="Mars/Olympus")
    with pytest.raises(InvalidInput, match="another user"):
        ada.analytics(user_id="bob")


def test_a_signed_in_user_sees_their_own(store: HistoryStore, users: list[tuple[str, str]], session: str) -> None:
    (ada, ada_token), (bob, _) = users[:2]
    store.for_user(ada).append(session, QA)
    store.for_user(bob).append(session, QA, turn=Turn(uuid.uuid4(), documents=[{"source": "secret.md"}]))
    before = store.for_user(ada).analytics()
    signed_in = store.as_user(ada_token)
    assert signed_in.analytics() == before
    assert "secret.md" not in {document.source for document in signed_in.analytics(documents=1000).documents}
    with pytest.raises(Forbidden):
        signed_in.analytics(user_id=bob)


def test_forks_count_once_and_what_is_cleared_stays(own: HistoryStore) -> None:
    own.append("s", QA, turn=Turn(uuid.uuid4(), total_tokens=5, documents=[{"source": "a.md"}]))
    own.fork_session("s", "copy")
    own.clear("s")
    found = asyncio.run(own.aanalytics())
    assert (found.total.turns, found.total.total_tokens, found.documents) == (1, 5, [DocumentUse("a.md", 1)])


def test_documents_of_very_many_turns_are_those_of_the_newest(own: HistoryStore) -> None:
    own.append("s", QA, turn=Turn(uuid.uuid4(), started_at=DAY - timedelta(days=1), documents=[{"source": "old.md"}]))
    with psycopg.connect(own.driver._conninfo, autocommit=True) as conn:  # type: ignore[attr-defined]
        conn.execute(
            "insert into chat_history_turns (session_key, user_id, id, ordinal, started_at, documents) "
            "select session_key, user_id, gen_random_uuid(), 1 + n, %s + n * interval '1 millisecond', %s::json "
            "from chat_history_sessions, generate_series(1, 50000) n",
            [DAY, '[{"source": "new.md"}]'],
        )
    found = own.analytics()
    assert found.total.turns == 50_001
    assert (found.documents, found.documents_since) == ([DocumentUse("new.md", 50_000)], DAY.replace(hour=0))
    # What is no list of objects is passed over.
    with psycopg.connect(own.driver._conninfo, autocommit=True) as conn:  # type: ignore[attr-defined]
        conn.execute("""update chat_history_turns set documents = '["text", 7, null, {"source": ""}]'""")
    assert own.analytics().documents == []
