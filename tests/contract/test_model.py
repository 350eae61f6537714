"""The store against a list: random conversations, and a state machine of everything that changes a session."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_supabase_history import Conflict, HistoryStore, NotFound, Turn, Window
from langchain_supabase_history.core.arguments import message_ids
from langchain_supabase_history.core.repair import without_unanswered_calls
from tests.core.test_messages import same
from tests.strategies import messages


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["psycopg", "data-api"])
def test_2000_random_conversations_are_equal_after_store_and_load(
    request: pytest.FixtureRequest, shared_database: str, kind: str
) -> None:
    store: HistoryStore = request.getfixturevalue("postgres_store" if kind == "psycopg" else "data_api_store")
    held = 0

    @settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.lists(messages(js=kind != "psycopg"), min_size=1, max_size=3), min_size=1, max_size=3))
    def hold(turns: list[list[BaseMessage]]) -> None:
        nonlocal held
        held += 1
        name = f"s-{uuid.uuid4()}"
        for turn in turns:
            store.append(name, turn)
        flat = [message for turn in turns for message in turn]
        assert all(map(same, [m.message for m in store.messages(name)], flat))
        loaded = store.load(name)
        wanted = without_unanswered_calls(flat)
        assert len(loaded) == len(wanted)
        assert all(map(same, loaded, wanted))

    hold()
    assert held >= 2000
    print(f"{kind}: {held} random conversations equal after store and load")


class Machine(RuleBasedStateMachine):
    """A session beside a list of what should be in it."""

    store: HistoryStore

    def __init__(self) -> None:
        super().__init__()
        self.name = f"s-{uuid.uuid4()}"
        self.stored: list[tuple[BaseMessage, bool]] = []  # message, whether the model is shown it
        self.known: list[tuple[list[uuid.UUID], list[BaseMessage], int]] = []
        self.exists = False
        self.epoch = 0
        self.counter = 0

    def new(self, count: int) -> list[BaseMessage]:
        made: list[BaseMessage] = []
        for n in range(count):
            self.counter += 1
            made.append((AIMessage if n % 2 else HumanMessage)(f"m{self.counter}"))
        return made

    @rule(count=st.integers(1, 4), failed=st.booleans(), told=st.booleans())
    def append(self, count: int, failed: bool, told: bool) -> None:
        given, ids = self.new(count), message_ids(count)
        turn = Turn(uuid.uuid4(), status="failed") if failed else None
        stored = self.store.append(self.name, given, ids=ids, turn=turn, epoch=self.epoch if told else None)
        assert [m.position for m in stored] == list(range(stored[0].position, stored[0].position + count))
        self.stored += [(message, not failed) for message in given]
        if not failed:
            self.known.append((ids, given, self.epoch))
        self.exists = True

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        ids, given, epoch = data.draw(st.sampled_from(self.known))
        before = self.store.messages(self.name, limit=1000).items
        try:
            self.store.append(self.name, given, ids=ids, epoch=epoch)
        except Conflict:
            assert epoch < self.epoch  # erased since: refused
        assert self.store.messages(self.name, limit=1000).items == before

    @rule()
    def clear(self) -> None:
        assert self.store.clear(self.name) == len(self.stored)
        if self.store.load(self.name) == [] and (self.exists or self.epoch):
            self.epoch += 1
        self.stored = []

    @rule()
    def delete(self) -> None:
        assert self.store.delete_session(self.name) is self.exists
        self.epoch += self.exists
        self.stored, self.exists = [], False

    @rule(messages=st.none() | st.integers(1, 5), turns=st.none() | st.integers(1, 3))
    def window(self, messages: int | None, turns: int | None) -> None:
        shown = [m for m, visible in self.stored if visible]
        got = self.store.load(self.name, Window(messages=messages, turns=turns))
        assert got == shown[len(shown) - len(got) :]
        assert messages is None or len(got) <= max(messages, 2)  # a question stands in front of the newest answer
        assert not shown or got

    @invariant()
    def equal(self) -> None:
        assert [m.message for m in self.store.messages(self.name, limit=1000)] == [m for m, _ in self.stored]
        assert self.store.load(self.name) == [m for m, visible in self.stored if visible]
        try:
            session = self.store.session(self.name)
            assert self.exists
            assert (session.message_count, session.epoch) == (len(self.stored), self.epoch)
        except NotFound:
            assert not self.exists


@pytest.mark.parametrize("kind", ["psycopg", "data-api"])
def test_a_session_behaves_like_a_list(request: pytest.FixtureRequest, kind: str) -> None:
    store = request.getfixturevalue("postgres_store" if kind == "psycopg" else "data_api_store")

    class Bound(Machine):
        pass

    Bound.store = store
    options: dict[str, Any] = {"max_examples": 30 if kind == "psycopg" else 8, "stateful_step_count": 25}
    run_state_machine_as_test(
        Bound, settings=settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, **options)
    )
