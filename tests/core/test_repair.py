"""What is shown of a conversation: a list that every provider accepts, with nothing lost that can be kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_supabase_history.core.repair import shown_with, without_unanswered_calls
from tests.transcripts import transcripts
from tests.validator import GEMINI, assert_accepted, complaints

Turns = list[tuple[str, list[BaseMessage]]]
many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def flat(turns: Turns) -> list[BaseMessage]:
    return [message for _, messages in turns for message in messages]


@many
@given(transcripts())
def test_every_provider_accepts_what_is_shown(turns: Turns) -> None:
    messages = flat(turns)
    before = copy.deepcopy(messages)
    shown = without_unanswered_calls(messages)
    assert messages == before
    assert_accepted(shown)
    assert without_unanswered_calls(shown) == shown
    assert [m for m in shown if m.type == "human"] == [m for m in messages if m.type == "human"]


@many
@given(transcripts(cuts=False, systems=False))
def test_what_is_whole_stays_as_it_is(turns: Turns) -> None:
    messages = flat(turns)
    assert_accepted(messages)
    assert without_unanswered_calls(messages) == messages


@many
@given(transcripts(), transcripts())
def test_history_and_question_are_accepted_together(turns: Turns, asked: Turns) -> None:
    question = flat(asked)[:1] if flat(asked)[0].type == "human" else flat(asked)[:2]
    shown = shown_with(flat(turns), question)
    assert_accepted([*shown.in_front, *shown.asked])
    assert_accepted([*shown.history, *(m for m in shown.asked if m.type != "system")])
    assert shown.asked[-1] is question[-1]
    assert [m for m in shown.in_front if m.type != "system"] == [m for m in shown.history if m.type != "system"]


@many
@given(transcripts(cuts=False, systems=False), st.data())
def test_a_question_may_be_the_result_that_is_waited_for(turns: Turns, data: st.DataObject) -> None:
    """The application runs the tools: wherever a turn is parted, both parts together are what they were."""
    messages = flat(turns)
    place = data.draw(st.integers(0, len(messages)))
    shown = shown_with(messages[:place], messages[place:])
    assert [*shown.in_front, *shown.asked] == messages
    assert shown.kept == messages[place:]


# --- by example

HUMAN = HumanMessage("Time?")
TEXT = {"type": "text", "text": "I look."}
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "eA=="}
SEARCH = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}


def call(*ids: str) -> list[dict[str, Any]]:
    return [{"name": "f", "args": {}, "id": id, "type": "tool_call"} for id in ids]


def use(id: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "f", "input": {}}


def item(id: str) -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{id}", "call_id": id, "name": "f", "arguments": "{}"}


def reasoning(id: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": f"rs_{id}", "summary": []}


def result(id: str, text: str = "16:10") -> ToolMessage:
    return ToolMessage(text, tool_call_id=id)


HALF_MADE: dict[str, tuple[list[Any], list[Any]]] = {
    # content as stored, with the calls in it without a result: what is shown of it
    "reasoning of a call": ([reasoning("1"), item("a")], []),
    "thinking of a call": ([THINKING, use("a")], []),
    "redacted thinking of a call": ([REDACTED, use("a")], []),
    "thinking, text and a call": ([THINKING, TEXT, use("a")], [THINKING, TEXT]),
    "text, thinking and a call": ([TEXT, THINKING, use("a")], [TEXT]),
    "thinking that was cut": ([{"type": "thinking", "thinking": "H"}], []),
    "text, then thinking that was cut": ([TEXT, {"type": "thinking", "thinking": "H"}], [TEXT]),
    "a server's call": ([TEXT, SEARCH], [TEXT]),
    "a server's call alone": ([SEARCH], []),
    "thinking of a server's call": ([THINKING, SEARCH], []),
    "a server's call with its result": ([THINKING, SEARCH, FOUND, TEXT], [THINKING, SEARCH, FOUND, TEXT]),
    "a server's result alone": ([FOUND, TEXT], [TEXT]),
    "a call of an MCP server": ([TEXT, {"type": "mcp_tool_use", "id": "m", "name": "f", "input": {}}], [TEXT]),
    "a standard server's call": ([TEXT, {"type": "server_tool_call", "id": "m", "name": "f", "args": {}}], [TEXT]),
    "a wrapped block": ([TEXT, {"type": "non_standard", "value": SEARCH}], [TEXT]),
    "code without its result": ([TEXT, {"type": "executable_code", "executable_code": "1"}], [TEXT]),
    "an item in progress": ([TEXT, {"type": "code_interpreter_call", "id": "c", "status": "interpreting"}], [TEXT]),
    "a request for approval": ([TEXT, {"type": "mcp_approval_request", "id": "m", "name": "f"}], [TEXT]),
    "pieces of a call": ([TEXT, {"type": "input_json_delta", "partial_json": '{"n'}], [TEXT]),
    "pieces of a standard call": ([TEXT, {"type": "tool_call_chunk", "args": "{", "id": "a"}], [TEXT]),
    "an empty text": ([{"type": "text", "text": ""}], []),
    "an empty text in front": ([{"type": "text", "text": ""}, TEXT], [TEXT]),
    "a blank text": ([{"type": "text", "text": " \n"}], []),
    "strings": (["", "I look."], ["I look."]),
    "a call of a computer": ([reasoning("1"), {"type": "computer_call", "call_id": "a", "action": {}}], []),
    "a custom call": ([TEXT, {"type": "custom_tool_call", "call_id": "a", "input": "x"}], [TEXT]),
}


@pytest.mark.parametrize("name", HALF_MADE)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_half_made_is_not_shown(name: str, known: bool) -> None:
    """`known`: LangChain has read the calls of the content, or not."""
    content, wanted = HALF_MADE[name]
    calls = call("a") if known and "call" in name and "server" not in name else []
    shown = without_unanswered_calls([HUMAN, AIMessage(content, tool_calls=calls), HUMAN])
    assert [m.content for m in shown] == [HUMAN.content, *([wanted] if wanted else []), HUMAN.content]
    assert_accepted(shown)


@pytest.mark.parametrize("answered", [("a",), ("b",), ("a", "b"), ("b", "a"), ()])
def test_reasoning_goes_with_the_call_that_it_led_to(answered: tuple[str, ...]) -> None:
    content: list[Any] = [reasoning("1"), item("a"), reasoning("2"), item("b")]
    message = AIMessage(content, tool_calls=call("a", "b"))
    shown = without_unanswered_calls([HUMAN, message, *map(result, answered), HUMAN])
    wanted = [part for id, pair in (("a", content[:2]), ("b", content[2:])) if id in answered for part in pair]
    assert [m.content for m in shown if isinstance(m, AIMessage)] == ([wanted] if wanted else [])
    assert_accepted(shown)


def test_reasoning_of_parallel_calls_stays_with_the_one_that_is_answered() -> None:
    for answered in ("a", "b"):
        message = AIMessage([THINKING, use("a"), use("b")], tool_calls=call("a", "b"))
        shown = without_unanswered_calls([HUMAN, message, result(answered)])
        assert shown[1].content == [THINKING, use(answered)]
    beside = AIMessage([THINKING], tool_calls=call("a", "b"))  # calls that the content does not repeat
    assert without_unanswered_calls([HUMAN, beside, result("b")])[1].content == [THINKING]


def test_entries_of_a_dropped_call_go_with_it() -> None:
    message = AIMessage(
        "I look.",
        tool_calls=call("a", "b"),
        additional_kwargs={
            "signatures": {"a": "x", "b": "y"},
            "tool_outputs": [{"type": "web_search_call", "id": "ws"}, {"type": "computer_call", "call_id": "c"}],
            "reasoning": {"id": "rs_1"},
        },
    )
    (_, shown, _) = without_unanswered_calls([HUMAN, message, result("b")])
    assert shown.additional_kwargs == {
        "signatures": {"b": "y"},
        "tool_outputs": [{"type": "web_search_call", "id": "ws"}],
        "reasoning": {"id": "rs_1"},
    }


def test_a_call_of_a_computer_keeps_its_result() -> None:
    message = AIMessage([reasoning("1"), {"type": "computer_call", "call_id": "a", "id": "cu_1", "action": {}}])
    messages = [HUMAN, message, result("a"), AIMessage("Done.")]
    assert without_unanswered_calls(messages) == messages
    noted = AIMessage("", additional_kwargs={"tool_outputs": [{"type": "computer_call", "call_id": "a"}]})
    assert without_unanswered_calls([HUMAN, noted, result("a")]) == [HUMAN, noted, result("a")]


@pytest.mark.parametrize("ids", [("", ""), ("k", "k"), ("", "k", "")])
def test_calls_without_ids_of_their_own_are_paired_by_order(ids: tuple[str, ...]) -> None:
    messages: list[BaseMessage] = [
        HUMAN,
        AIMessage("", tool_calls=call(*ids)),
        *(result(i, str(n)) for n, i in enumerate(ids)),
    ]
    assert without_unanswered_calls(messages) == messages
    assert_accepted(messages, [GEMINI])
    fewer = without_unanswered_calls(messages[:-1])
    assert isinstance(fewer[1], AIMessage)
    assert len(fewer[1].tool_calls) == len(fewer) - 2 == len(ids) - 1
    more = without_unanswered_calls([*messages, result(ids[0], "again")])
    assert more == messages  # it answers nothing


def test_calls_of_one_message_each_keep_their_results() -> None:
    """As items of OpenAI's Responses API are stored, one by one."""
    one, two = AIMessage("", tool_calls=call("a")), AIMessage("", tool_calls=call("b"))
    shown = without_unanswered_calls([HUMAN, one, two, result("a"), result("b"), AIMessage("Done.")])
    assert shown == [HUMAN, one, result("a"), two, result("b"), AIMessage("Done.")]
    assert_accepted(shown)


def test_a_question_between_a_call_and_its_result_ends_it() -> None:
    shown = without_unanswered_calls([HUMAN, AIMessage("I look.", tool_calls=call("a")), HUMAN, result("a")])
    assert [m.text for m in shown] == ["Time?", "I look.", "Time?"]
    assert_accepted(shown)


def test_system_messages_stand_in_front_each_once() -> None:
    brief, kind = SystemMessage("Be brief."), SystemMessage("Be kind.")
    one, two = AIMessage("One."), AIMessage("Two.")
    history = [brief, HUMAN, one, SystemMessage("Be brief."), HUMAN, two]
    assert without_unanswered_calls(history) == [brief, HUMAN, one, HUMAN, two]
    shown = shown_with(history, [SystemMessage("Be brief."), kind, HUMAN])
    assert shown.in_front == [brief, kind, HUMAN, one, HUMAN, two]
    assert (shown.history, shown.asked) == ([brief, HUMAN, one, HUMAN, two], [HUMAN])
    assert shown.kept == [kind, HUMAN]
    # Instructions between a call and its result do not part them.
    asked = [HUMAN, AIMessage("", tool_calls=call("a"))]
    assert without_unanswered_calls([*asked, kind, result("a")]) == [kind, *asked, result("a")]


def test_an_answer_without_text_is_kept_where_it_is_elsewhere() -> None:
    for extra in ({"audio": {"id": "a"}}, {"function_call": {"name": "f", "arguments": "{}"}}, {"refusal": "No."}):
        message = AIMessage("", additional_kwargs=extra)
        assert without_unanswered_calls([HUMAN, message]) == [HUMAN, message]
    assert without_unanswered_calls([HUMAN, AIMessage("")]) == [HUMAN]
    picture = AIMessage([{"type": "image", "base64": "AA==", "mime_type": "image/png"}])
    assert without_unanswered_calls([HUMAN, picture]) == [HUMAN, picture]
    assert complaints([HUMAN, AIMessage("")])
