"""Branches: rewind, alternatives, switch, pop, fork; turns that meet them; and all of it against a model."""

from __future__ import annotations

import random
import threading
import uuid
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import (
    Alternative,
    Conflict,
    HistoryStore,
    InvalidInput,
    NotFound,
    SupabaseChatMessageHistory,
    Turn,
)
from langchain_supabase_history.core.arguments import message_ids
from tests.conftest import Api


def texts(found: Any) -> list[str]:
    return [getattr(m, "message", m).text for m in found]


def say(api: Any, session: str, *words: str, **options: Any) -> Any:
    kinds = [HumanMessage, AIMessage]
    return api.append(session, [kinds[n % 2](word) for n, word in enumerate(words)], **options)


def test_a_question_is_edited_and_the_first_one_comes_back(api: Api, session: str) -> None:
    say(api, session, "q1", "a1")
    stored = say(api, session, "q2", "a2")
    before = api.session(session)
    made = api.rewind_session(session, before=stored[0])
    assert (made.position, made.message_count, made.excerpt) == (3, 2, "q2")
    assert texts(api.load(session)) == texts(api.messages(session)) == ["q1", "a1"]
    after = api.session(session)
    assert (after.message_count, after.turn_count, after.last_position) == (2, 1, 2)
    assert (after.epoch, after.revision) == (before.epoch + 1, before.revision + 1)
    assert api.alternatives(session) == [made]
    assert api.alternative_messages(session, made) == stored

    edited = say(api, session, "q2 edited", "a2 edited")
    assert [m.position for m in edited] == [3, 4]
    switched = api.switch_to(session, made)
    assert list(api.messages(session))[2:] == stored
    assert (switched.message_count, switched.turn_count) == (4, 2)
    (other,) = api.alternatives(session)
    assert (other.position, other.excerpt, other.follows) == (3, "q2 edited", made.follows)
    api.switch_to(session, other.id)
    assert texts(api.load(session)) == ["q1", "a1", "q2 edited", "a2 edited"]
    with pytest.raises(NotFound, match="no such alternative"):
        api.switch_to(session, other)


def test_an_answer_is_generated_again_in_its_turn(api: Api, session: str) -> None:
    say(api, session, "q", "a", turn=Turn(uuid.uuid4(), total_tokens=5))
    first = api.rewind_session(session, before=2)
    assert texts(api.load(session)) == ["q"]
    api.append(session, [AIMessage("b")])
    second = api.rewind_session(session, before=2)
    api.append(session, [AIMessage("c")])
    found = api.alternatives(session)
    assert found == [first, second]
    assert [(a.position, a.excerpt, a.follows) for a in found] == [(2, "a", first.follows), (2, "b", first.follows)]
    assert api.session(session).turn_count == len(list(api.turns(session))) == 1
    assert {m.turn_id for m in api.messages(session)} == {api.turns(session).items[0].id}
    api.switch_to(session, first)
    assert texts(api.load(session)) == ["q", "a"]
    assert sorted(a.excerpt for a in api.alternatives(session)) == ["b", "c"]


def test_an_alternative_of_an_alternative_brings_both_back(api: Api, session: str) -> None:
    say(api, session, "q1", "a1")
    say(api, session, "q2", "a2")
    inner = api.rewind_session(session, before=3)
    say(api, session, "q3", "a3")
    outer = api.rewind_session(session, before=1)
    say(api, session, "other", "answer")
    assert texts(api.alternative_messages(session, outer)) == ["q1", "a1", "q3", "a3"]
    api.switch_to(session, inner)
    assert texts(api.load(session)) == ["q1", "a1", "q2", "a2"]
    assert [m.position for m in api.messages(session)] == [1, 2, 3, 4]
    assert {a.excerpt for a in api.alternatives(session)} == {"other", "q3"}


def test_what_is_erased_cannot_be_switched_to(api: Api, session: str) -> None:
    say(api, session, "q", "a")
    first = api.rewind_session(session, before=2)
    api.clear(session)
    assert api.alternatives(session) == []
    for call in (api.switch_to, api.alternative_messages):
        with pytest.raises(NotFound):
            call(session, first)
    say(api, session, "q2", "a2")
    api.rewind_session(session, before=1)
    assert api.session(session).message_count == 0
    api.delete_session(session)
    assert api.alternatives(session) == []
    for call in (lambda: api.rewind_session(session, before=1), lambda: api.switch_to(session, first)):
        with pytest.raises(NotFound):
            call()


def test_prune_removes_alternatives_for_good(shared_database: str, store: HistoryStore, session: str) -> None:
    user = store.for_user(session)
    say(user, "s", "q1", "a1")
    say(user, "s", "q2", "a2")
    user.rewind_session("s", before=3)
    say(user, "s", "q3", "a3")
    user.rewind_session("s", before=4)
    assert user.prune().messages == 3
    assert user.prune(dry_run=False, batch=1).messages == 3
    assert user.alternatives("s") == []
    assert texts(user.load("s")) == ["q1", "a1", "q3"]
    with psycopg.connect(shared_database) as conn:
        for table, rows in (("alternatives", 0), ("messages", 3), ("turns", 2)):
            row = conn.execute(
                f"select count(*) from chat_history_{table} where user_id = %s".encode(), [session]
            ).fetchone()
            assert row == (rows,), table
    assert user.prune().messages == user.prune().turns == 0


def test_the_last_messages_are_popped(api: Api, session: str) -> None:
    assert api.pop_messages(session) == []
    stored = [*say(api, session, "q1", "a1"), *say(api, session, "q2", "a2")]
    assert api.pop_messages(session) == stored[3:]
    assert api.pop_messages(session, 2) == stored[1:3]
    assert texts(api.load(session)) == ["q1"]
    assert api.pop_messages(session, 9) == stored[:1]
    assert api.pop_messages(session) == []
    assert [m.position for m in say(api, session, "again")] == [1]
    with pytest.raises(NotFound):
        api.session("popped nothing of " + session)


def test_nothing_is_taken_out_where_there_is_nothing(api: Api, session: str) -> None:
    stored = say(api, session, "q", "a")
    assert api.rewind_session(session, before=3) is None
    assert api.session(session).revision == 0
    api.rewind_session(session, before=2)
    with pytest.raises(NotFound, match="no such message"):
        api.rewind_session(session, before=stored[1])
    for bad in (0, -1, True, "1", None, 1.5):
        with pytest.raises(InvalidInput):
            api.rewind_session(session, before=bad)
        if bad is not None:
            with pytest.raises(InvalidInput):
                api.fork_session(session, "f-" + session, upto=bad)


# --- forks


def test_a_fork_goes_its_own_way(api: Api, session: str) -> None:
    user = api.for_user(session)
    turn = Turn(uuid.uuid4(), model="m", total_tokens=7, total_cost=0.5)
    first = say(user, "s", "q1", "a1", turn=turn)
    second = say(user, "s", "q2", "a2", turn=Turn(uuid.uuid4(), total_tokens=1))
    user.add_feedback("s", first[1], "helpful", score=1)
    user.add_feedback("s", second[1], "helpful", score=0)
    user.update_session("s", title="Title", tags=["x"], metadata={"a": 1}, pinned=True)
    made = user.fork_session("s", "fork", upto=first[1])
    assert made == user.session("fork")
    assert (made.title, made.tags, made.metadata, made.pinned) == ("Title", ["x"], {"a": 1}, False)
    assert (made.message_count, made.turn_count, made.total_tokens, made.forked_from) == (2, 1, 7, "s")
    assert list(user.messages("fork")) == first
    (copied,) = user.turns("fork")
    assert (copied.id, copied.model, copied.total_cost) == (turn.id, "m", 0.5)
    assert [f.score for f in user.feedback("fork")] == [1]
    say(user, "fork", "q3", "a3")
    say(user, "s", "q4", "a4")
    assert texts(user.load("fork")) == ["q1", "a1", "q3", "a3"]
    assert texts(user.load("s")) == ["q1", "a1", "q2", "a2", "q4", "a4"]
    assert [m.position for m in user.messages("fork")] == [1, 2, 3, 4]
    (usage,) = user.usage()
    assert (usage.total_tokens, usage.total_cost) == (8, 0.5)  # used once, though copied
    with pytest.raises(Conflict, match="exists"):
        user.fork_session("s", "fork")
    with pytest.raises(Conflict, match="exists"):
        user.fork_session("s", "s")
    with pytest.raises(NotFound):
        user.fork_session("unknown", "new")
    with pytest.raises(NotFound):
        user.session("new")
    user.delete_session("fork")
    assert texts(user.load("s"))[:2] == ["q1", "a1"]
    again = user.fork_session("s", "fork", upto=3)  # the name may be used again
    assert texts(user.load("fork")) == ["q1", "a1", "q2"]
    assert again.message_count == 3


def test_a_fork_of_what_is_left_after_a_clear_begins_at_one(api: Api, session: str) -> None:
    say(api, session, "gone", "gone too")
    api.clear(session)
    say(api, session, "q", "a")
    api.fork_session(session, "f-" + session)
    assert [(m.position, m.message.text) for m in api.messages("f-" + session)] == [(1, "q"), (2, "a")]


# --- turns that began before


def test_a_turn_that_began_before_is_refused(api: Api, session: str) -> None:
    say(api, session, "q1", "a1")
    running = Turn(uuid.uuid4(), status="running")
    ids = message_ids(2)
    api.append(session, [HumanMessage("q2")], ids=ids[:1], turn=running)
    api.rewind_session(session, before=1)
    with pytest.raises(Conflict, match="taken out"):
        api.append(session, [AIMessage("late")], turn=Turn(running.id))
    with pytest.raises(Conflict, match="taken out"):  # goes on with what is not there any more
        api.append(session, [HumanMessage("q2"), AIMessage("late")], ids=ids)
    with pytest.raises(Conflict, match="taken back"):
        say(api, session, "made before", epoch=0)
    assert api.append(session, [HumanMessage("q2")], ids=ids[:1])[0].position == 3  # known: answered as the first time
    assert api.load(session) == []
    api.append(session, [], turn=Turn(running.id, status="interrupted", total_tokens=9))  # news, no messages
    api.append(session, [AIMessage("begins")])
    assert (api.session(session).turn_count, api.session(session).total_tokens) == (1, None)


def test_a_turn_that_lost_some_of_its_messages_gets_no_more(api: Api, session: str) -> None:
    turn = Turn(uuid.uuid4(), status="running")
    say(api, session, "q", "step 1", turn=turn)
    api.rewind_session(session, before=2)
    with pytest.raises(Conflict, match="taken out"):
        api.append(session, [AIMessage("step 2")], turn=turn)
    assert texts(api.load(session)) == ["q"]


def test_a_history_that_read_before_is_refused(store: HistoryStore, session: str) -> None:
    say(store, session, "q1", "a1")
    history = store.get_session_history(session)
    assert isinstance(history, SupabaseChatMessageHistory)
    assert texts(history.messages) == ["q1", "a1"]
    alternative = store.rewind_session(session, before=2)
    with pytest.raises(Conflict):
        history.add_messages([HumanMessage("late"), AIMessage("late")])
    fresh = store.get_session_history(session)
    assert texts(fresh.messages) == ["q1"]
    assert alternative is not None
    store.switch_to(session, alternative)
    with pytest.raises(Conflict):
        fresh.add_messages([HumanMessage("late")])
    assert texts(store.load(session)) == ["q1", "a1"]


@pytest.mark.parametrize("fork", [False, True])
def test_a_question_that_waits_is_of_the_branch_it_was_asked_on(store: HistoryStore, session: str, fork: bool) -> None:
    from langchain_core.runnables import RunnableLambda

    say(store, session, "q1", "a1")

    def meanwhile(messages: Any) -> AIMessage:
        if fork:
            store.fork_session(session, "f-" + session)
        else:
            store.rewind_session(session, before=1)
        return AIMessage("a2")

    chain = store.with_history(RunnableLambda(meanwhile))
    config = {"configurable": {"session_id": session}}
    if fork:
        chain.invoke("q2", config)  # type: ignore[arg-type]
        assert texts(store.load(session)) == ["q1", "a1", "q2", "a2"]
        assert texts(store.load("f-" + session)) == ["q1", "a1"]
    else:
        with pytest.raises(Exception, match="taken back") as caught:
            chain.invoke("q2", config)  # type: ignore[arg-type]
        assert texts(caught.value.messages) == ["q2", "a2"]  # type: ignore[attr-defined]
        assert store.load(session) == []
    assert len(list(store.turns(session))) == (2 if fork else 0)


def test_as_a_signed_in_user(users: list[tuple[str, str]], store: HistoryStore, session: str) -> None:
    ada, bob = (store.as_user(token) for _, token in users[:2])
    say(ada, session, "q1", "a1")
    made = ada.rewind_session(session, before=2)
    assert made is not None
    assert ada.alternatives(session) == [made]
    assert bob.alternatives(session) == []
    for call in (
        lambda: bob.switch_to(session, made),
        lambda: bob.rewind_session(session, before=1),
        lambda: bob.fork_session(session, "f-" + session),
        lambda: bob.alternative_messages(session, made),
    ):
        with pytest.raises(NotFound):
            call()
    ada.switch_to(session, made)
    ada.fork_session(session, "f-" + session)
    assert texts(ada.load("f-" + session)) == texts(ada.load(session)) == ["q1", "a1"]
    assert texts(ada.pop_messages(session)) == ["a1"]


# --- against a model


class Machine(RuleBasedStateMachine):
    """A session beside lists: the path that is shown, and for each alternative the path that it stands for."""

    store: HistoryStore

    def __init__(self) -> None:
        super().__init__()
        self.user = self.store.for_user(f"u-{uuid.uuid4()}")
        self.path: list[str] = []
        self.paths: set[tuple[str, ...]] = set()  # that must be reachable: all that was ever shown and not erased
        self.counter = 0
        self.forks: dict[str, list[str]] = {}

    @rule(n=st.integers(1, 3))
    def append(self, n: int) -> None:
        new = []
        for _ in range(n):
            self.counter += 1
            new.append(f"m{self.counter}")
        stored = say(self.user, "s", *new)
        assert [m.position - stored[0].position for m in stored] == list(range(n))
        self.path += new

    @precondition(lambda self: self.path)
    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(1, len(self.path)))
        self.paths.add(tuple(self.path))
        message = list(self.user.messages("s"))[at - 1]
        made = self.user.rewind_session("s", before=message)
        assert made is not None
        assert made.message_count == len(self.path) - at + 1
        self.path = self.path[: at - 1]

    @precondition(lambda self: self.path)
    @rule(n=st.integers(1, 4))
    def pop(self, n: int) -> None:
        self.paths.add(tuple(self.path))
        assert texts(self.user.pop_messages("s", n)) == self.path[-n:]
        self.path = self.path[:-n]

    @rule(data=st.data())
    def switch(self, data: st.DataObject) -> None:
        found = self.user.alternatives("s")
        if not found:
            return
        chosen: Alternative = data.draw(st.sampled_from(found))
        tail = texts(self.user.alternative_messages("s", chosen))
        self.paths.add(tuple(self.path))
        self.user.switch_to("s", chosen)
        now = texts(self.user.messages("s"))
        assert now[chosen.position - self.first :] == tail
        assert any(path[: len(now)] == tuple(now) for path in self.paths)  # nothing that was never said in a row
        self.path = now

    @property
    def first(self) -> int:
        page = self.user.messages("s", limit=1)
        return page.items[0].position if page.items else 1

    @precondition(lambda self: self.path)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        name = f"fork-{len(self.forks)}"
        at = data.draw(st.integers(1, len(self.path)))
        self.user.fork_session("s", name, upto=list(self.user.messages("s"))[at - 1])
        self.forks[name] = self.path[:at]

    @precondition(lambda self: self.forks)
    @rule(data=st.data())
    def append_to_a_fork(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.forks)))
        self.counter += 1
        say(self.user, name, f"m{self.counter}")
        self.forks[name].append(f"m{self.counter}")

    @rule(delete=st.booleans())
    def erase(self, delete: bool) -> None:
        (self.user.delete_session if delete else self.user.clear)("s")
        self.path, self.paths = [], set()

    @rule()
    def prune(self) -> None:
        self.user.prune(dry_run=False)
        self.paths = set()

    @invariant()
    def holds(self) -> None:
        stored = list(self.user.messages("s", limit=1000))
        assert texts(stored) == self.path
        if stored:
            assert [m.position for m in stored] == list(range(stored[0].position, stored[0].position + len(stored)))
            session = self.user.session("s")
            assert (session.message_count, session.last_position) == (len(stored), stored[-1].position)
            turns = list(self.user.turns("s", limit=1000))
            assert session.turn_count == len(turns)
            assert {m.turn_id for m in stored} <= {t.id for t in turns}
        assert texts(self.user.load("s")) == self.path
        for name, path in self.forks.items():
            assert texts(self.user.messages(name)) == path
        alternatives = self.user.alternatives("s")
        for left in self.paths:  # every path that was left is there still: as a beginning of what an alternative shows
            said = {*self.path, *(text for a in alternatives for text in texts(self.user.alternative_messages("s", a)))}
            assert said >= set(left)


def check_machine(store: HistoryStore, examples: int, steps: int) -> None:
    class Bound(Machine):
        pass

    Bound.store = store
    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    run_state_machine_as_test(Bound, settings=options)


def test_branches_are_what_a_model_says(postgres_store: HistoryStore) -> None:
    check_machine(postgres_store, 15, 25)


@pytest.mark.soak
def test_branches_are_what_a_model_says_for_long(postgres_store: HistoryStore, data_api_store: HistoryStore) -> None:
    check_machine(postgres_store, 150, 50)
    check_machine(data_api_store, 25, 40)


# --- against each other


def test_8_writers_while_one_rewinds_switches_and_forks(postgres_store: HistoryStore, session: str) -> None:
    user = postgres_store.for_user(session)
    say(user, "s", "q", "a")
    accepted: dict[str, bool] = {}
    stop = threading.Event()
    faults: list[BaseException] = []

    def write(n: int) -> None:
        try:
            for k in range(25):
                name = f"w{n}-{k}"
                epoch = user.session("s").epoch
                try:
                    say(user, "s", name, name, name, turn=Turn(uuid.uuid4()), epoch=epoch)
                    accepted[name] = True
                except Conflict:
                    accepted[name] = False
        except BaseException as error:
            faults.append(error)

    def branch() -> None:
        rng = random.Random(7)
        try:
            for k in range(10_000):
                if stop.is_set():
                    return
                last = user.session("s").last_position
                user.rewind_session("s", before=rng.randint(max(last - 6, 2), last + 1))
                if (found := user.alternatives("s")) and rng.random() < 0.5:
                    user.switch_to("s", rng.choice(found))
                if k % 5 == 0:
                    user.fork_session("s", f"fork-{k}")
        except BaseException as error:
            faults.append(error)

    brancher = threading.Thread(target=branch)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in (brancher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    brancher.join()
    assert faults == []

    def check(stored: list[Any]) -> None:
        assert [m.position for m in stored] == list(range(1, len(stored) + 1))
        turns: dict[Any, set[str]] = {}
        for m in stored:
            turns.setdefault(m.turn_id, set()).add(m.message.text.partition("-")[0] + m.message.text)
        assert all(len(said) == 1 for turn, said in list(turns.items())[1:])  # the first is the question and its answer

    seen: set[str] = set()
    stored = list(user.messages("s", limit=1000))
    check(stored)
    seen |= set(texts(stored))
    for fork in user.sessions(prefix="fork-", limit=1000):
        check(list(user.messages(fork.session_id, limit=1000)))
    for alternative in user.alternatives("s"):
        found = user.alternative_messages("s", alternative)
        assert [m.position for m in found] == list(range(alternative.position, alternative.position + len(found)))
        seen |= set(texts(found))
    assert {name for name, stored_it in accepted.items() if stored_it} <= seen  # what was accepted is somewhere
    assert not {name for name, stored_it in accepted.items() if not stored_it} & seen  # and what was refused nowhere
    assert any(accepted.values())
