"""What is new in what a runnable gives back: laws, without a database."""

from __future__ import annotations

from typing import Any

from hypothesis import given, strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage

from langchain_supabase_history.langchain.gained import in_the_end, new_messages
from langchain_supabase_history.langchain.shapes import with_ids

texts = st.sampled_from(["yes", "no", "The time?"])
answers = st.lists(st.builds(AIMessage, texts), min_size=1, max_size=3)
turn = st.builds(lambda question, answer: [HumanMessage(question), *answer], texts, answers)
histories = st.lists(turn, max_size=3).map(lambda turns: [message for turn in turns for message in turn])
questions = st.builds(lambda text: [HumanMessage(text)], texts)


def bare(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Copies, as from another process."""
    return [message.model_copy(update={"id": None}) for message in messages]


@given(histories, questions, answers)
def test_what_follows_the_question_is_new(history: Any, question: Any, answer: Any) -> None:
    history, question, answer = with_ids(history), with_ids(question), with_ids(answer)
    shown: list[BaseMessage]
    for shown in (history, history[2:], []):
        assert new_messages([*shown, *question, *answer], history, question, is_state=True) == answer
    whole = [*bare(history), *bare(question), *bare(answer)]
    assert new_messages(whole, bare(history), bare(question)) == bare(answer)


@given(histories, questions, answers)
def test_an_answer_alone_is_new(history: Any, question: Any, answer: Any) -> None:
    assert new_messages(answer[:1], history, question) == answer[:1]
    assert new_messages(with_ids(answer), with_ids(history), with_ids(question), is_state=True) != []


@given(histories, questions, answers, st.data())
def test_edits_of_what_was_shown_are_not_new(history: Any, question: Any, answer: Any, data: Any) -> None:
    history, question, answer = with_ids(history), with_ids(question), with_ids(answer)
    state = [
        message.model_copy(update={"content": "edited"}) if data.draw(st.booleans()) else message
        for message in [*history, *question]
        if data.draw(st.booleans()) or message in question
    ]
    assert new_messages([*state, *answer], history, question, is_state=True) == answer


@given(histories, questions, answers)
def test_a_summary_and_a_removal_are_never_new(history: Any, question: Any, answer: Any) -> None:
    history, question, answer = with_ids(history), with_ids(question), with_ids(answer)
    summary = HumanMessage("So far ...", id="s", additional_kwargs={"lc_source": "summarization"})
    shown: list[BaseMessage]
    for shown in ([], question):
        state = [summary, *shown, *answer, RemoveMessage(id="x")]
        assert new_messages(state, history, question, is_state=True) == answer


@given(histories, questions, answers)
def test_a_question_in_the_end(history: Any, question: Any, answer: Any) -> None:
    history, question, answer = with_ids(history), with_ids(question), with_ids(answer)
    edited = question[0].model_copy(update={"content": "[REDACTED]"})
    assert in_the_end(question, answer, [*history, edited, *answer]) == ([edited], answer)
    instead = HumanMessage("[ctx]", id="other")
    state = [*history, instead, *answer]
    new = new_messages(state, history, question, is_state=True)
    assert in_the_end(question, new, state) == ([instead], answer)
    assert in_the_end(question, answer, answer) == (question, answer), "it was summed up: as it was asked"


def test_the_same_object_again_is_an_answer_again() -> None:
    again = AIMessage("again", id="run-1")
    assert new_messages([again], [HumanMessage("q"), again], [HumanMessage("q")]) == [again]


def test_a_tools_result_as_a_question() -> None:
    history: list[BaseMessage] = [HumanMessage("q", id="1"), AIMessage("", id="2")]
    result = ToolMessage("16:10", tool_call_id="k", id="3")
    answer = AIMessage("Ten past.", id="4")
    assert new_messages([*history, result, answer], history, [result], is_state=True) == [answer]
    assert in_the_end([result], [answer], [*history, result, answer]) == ([result], [answer])
