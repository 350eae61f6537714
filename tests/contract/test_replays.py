"""Requests that arrive twice, or late: what a retry sends again finds things as the first try left them, or is refused.

A request can arrive after its own second try: a gateway holds it, the client has long given up on it. A call executed
again with `replay=False` is that late first try.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import Conflict, HistoryStore
from langchain_supabase_history.core.call import Call
from langchain_supabase_history.langchain.progress import Progress
from langchain_supabase_history.operations import sessions
from langchain_supabase_history.operations.messages import append_call, begin_call
from langchain_supabase_history.operations.sessions import clear_call, delete_call

QA = [HumanMessage("my secret"), AIMessage("noted")]


def send(store: HistoryStore, call: Call[Any], *, replay: bool) -> Any:
    """One try of a call, as the first or as a later one."""
    return store.driver.attempt(call, None, replay, 5)


ERASE: dict[str, Callable[[HistoryStore, str], object]] = {
    "clear": lambda store, session: store.clear(session),
    "delete": lambda store, session: store.delete_session(session),
}


def test_a_first_try_that_arrives_after_the_second_stores_nothing(store: HistoryStore, session: str) -> None:
    built = append_call(store.scope, session, QA)
    stored = send(store, built, replay=True)
    with pytest.raises(Conflict):
        send(store, built, replay=False)  # nobody waits for this answer any more
    assert send(store, built, replay=True) == stored
    assert store.load(session) == QA


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("erase", ERASE)
def test_a_turn_of_a_history_does_not_come_back(store: HistoryStore, session: str, erase: str, replay: bool) -> None:
    history = store.get_session_history(session)
    assert history.messages == []
    call = history._append(QA)
    assert call is not None
    send(store, call, replay=True)  # the second try is faster
    ERASE[erase](store, session)
    store.append(session, [HumanMessage("anew")])
    try:
        send(store, call, replay=replay)
    except Conflict:
        pass
    else:
        assert erase == "clear", "hidden rows are still known, and answered"
    assert [m.text for m in store.load(session)] == ["anew"]


@pytest.mark.parametrize("erase", ERASE)
def test_a_turn_that_was_erased_while_it_ran_is_refused(store: HistoryStore, session: str, erase: str) -> None:
    store.append(session, QA)
    history = store.get_session_history(session)
    assert len(history.messages) == 2
    ERASE[erase](store, session)
    with pytest.raises(Conflict, match="cleared or deleted"):
        history.add_messages([HumanMessage("of before"), AIMessage("the erasure")])
    assert store.load(session) == []
    store.get_session_history(session).add_messages([HumanMessage("of after")])
    assert [m.text for m in store.load(session)] == ["of after"]


@pytest.mark.parametrize("erase", ERASE)
def test_a_question_does_not_come_back(store: HistoryStore, session: str, erase: str) -> None:
    begin = begin_call(store.scope, session, QA[:1], Progress().turn([], "running"))
    send(store, begin, replay=True)
    ERASE[erase](store, session)
    with pytest.raises(Conflict, match="after the question was asked"):
        send(store, begin, replay=False)
    assert list(store.turns(session)) == []
    assert store.load(session) == []


def test_a_cleared_question_is_refused_before_the_model_runs(store: HistoryStore, session: str) -> None:
    first = begin_call(store.scope, session, QA[:1], Progress().turn([], "running"))
    second = begin_call(store.scope, session, QA[:1], Progress().turn([], "running"))
    send(store, first, replay=False)
    send(store, second, replay=False)
    store.clear(session)
    for begin in (first, second):
        with pytest.raises(Conflict, match="after the question was asked"):
            send(store, begin, replay=True)


def test_a_retried_clear_hides_nothing_that_was_written_since(store: HistoryStore, session: str) -> None:
    store.append(session, QA)
    clear = clear_call(store.scope, session)
    assert send(store, clear, replay=False) == 2
    store.append(session, [HumanMessage("another's"), AIMessage("turn")])
    assert send(store, clear, replay=True) == 2, "answered as the first time"
    assert [m.text for m in store.load(session)] == ["another's", "turn"]
    assert store.session(session).epoch == 1
    assert store.clear(session) == 2, "another request clears"
    assert store.load(session) == []


def test_a_retried_replacement_hides_nothing_that_was_written_since(store: HistoryStore, session: str) -> None:
    store.append(session, QA)
    built = append_call(store.scope, session, [HumanMessage("instead")], replace=True)
    send(store, built, replay=False)
    store.append(session, [AIMessage("goes on")])
    send(store, built, replay=True)
    assert [m.text for m in store.load(session)] == ["instead", "goes on"]


def test_a_retried_delete_says_that_there_was_one(store: HistoryStore, session: str) -> None:
    store.append(session, QA)
    delete = delete_call(store.scope, session)
    assert send(store, delete, replay=False) == (True, False)
    assert send(store, delete, replay=True) == (True, False)
    assert store.delete_session(session) is False


def test_a_large_session_is_deleted_in_parts(
    store: HistoryStore, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ERASE_BATCH", 10)
    for n in range(8):
        store.append(session, [HumanMessage(f"q{n}"), AIMessage("a"), AIMessage("b")])
    delete = delete_call(store.scope, session)
    assert send(store, delete, replay=False) == (True, True)
    assert store.load(session) == [], "gone from sight with the first part"
    assert store.delete_session(session) is False, "whoever calls again finishes it"
    assert send(store, delete, replay=True) == (True, False)
    store.append(session, QA)
    assert store.delete_session(session) is True
    assert list(store.messages(session)) == []
