"""Titles that a model writes: where there is none, and never in the place of one that somebody has set."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_supabase_history import HistoryStore, InvalidInput, NotFound, Unavailable
from tests.conftest import Api

QA = [HumanMessage("Where should we go in São Paulo?"), AIMessage("To the market.")]


def model(answer: Any, seen: list[list[BaseMessage]] | None = None) -> Runnable[Any, Any]:
    def answered(messages: list[BaseMessage]) -> Any:
        if seen is not None:
            seen.append(messages)
        return answer

    return RunnableLambda(answered)


def test_a_model_writes_the_title_of_a_conversation_that_has_none(api: Api, session: str) -> None:
    seen: list[list[BaseMessage]] = []
    api.append(session, [*QA, ToolMessage("a result", tool_call_id="c"), *(HumanMessage(f"{n}") for n in range(20))])
    named = api.title_with(model(AIMessage('"A weekend\nin São Paulo"'), seen), session)
    assert named.title == api.session(session).title == "A weekend in São Paulo"
    (given,) = seen
    assert given[:2] == QA
    assert len(given) == 10  # nine of the first ten messages, and the instruction
    assert "title" in given[-1].text
    again = api.title_with(model("Another"), session)
    assert again.title == "A weekend in São Paulo"


def test_a_chain_that_knows_what_to_do_is_given_the_messages_alone(store: HistoryStore, session: str) -> None:
    seen: list[list[BaseMessage]] = []
    store.append(session, QA)
    assert store.title_with(model("# Tx" + "y" * 200, seen), session, instruction=None).title == "Tx" + "y" * 97 + "…"
    assert seen == [QA]


def test_a_title_that_is_set_while_the_model_runs_stays(store: HistoryStore, session: str) -> None:
    store.append(session, QA)

    def slow(messages: list[BaseMessage]) -> str:
        store.update_session(session, title="By hand")
        return "By the model"

    assert store.title_with(RunnableLambda(slow), session).title == "By hand"


@pytest.mark.parametrize("answer", ["", "  \n ", '""', AIMessage(""), None, {"title": "x"}, 7])
def test_an_answer_that_is_no_title_changes_nothing(store: HistoryStore, session: str, answer: Any) -> None:
    store.append(session, QA)
    assert store.title_with(model(answer), session).title == "Where should we go in São Paulo?"


def test_what_cannot_be_titled(store: HistoryStore, session: str) -> None:
    with pytest.raises(NotFound):
        store.title_with(model("x"), session)
    store.append(session, [ToolMessage("r", tool_call_id="c")])
    with pytest.raises(NotFound, match="no text"):
        store.title_with(model("x"), session)
    with pytest.raises(InvalidInput):
        store.title_with("model", session)  # type: ignore[arg-type]

    def broken(messages: list[BaseMessage]) -> str:
        raise Unavailable("the model is away")

    store.append(session, QA)
    with pytest.raises(Unavailable, match="the model is away"):
        store.title_with(RunnableLambda(broken), session)
