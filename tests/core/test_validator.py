"""The validator of the tests accepts what providers accept, and refuses each thing that they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from tests.validator import ANTHROPIC, GEMINI, OPENAI, RULES, assert_accepted, complaints

HUMAN = HumanMessage("Time?")


def called(*ids: str, content: Any = "") -> AIMessage:
    return AIMessage(content, tool_calls=[{"name": "f", "args": {}, "id": id} for id in ids])


def answered(id: str) -> ToolMessage:
    return ToolMessage("16:10", tool_call_id=id)


SEARCH = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": []}
TEXT = {"type": "text", "text": "Ten."}
USE = {"type": "tool_use", "id": "k1", "name": "f", "input": {}}
APPROVAL = {"type": "mcp_approval_request", "id": "m1", "name": "f", "arguments": "{}", "server_label": "s"}

ACCEPTED: dict[str, list[BaseMessage]] = {
    "nothing": [],
    "a turn": [HUMAN, AIMessage("Ten.")],
    "two system messages": [SystemMessage("a"), SystemMessage("b"), HUMAN, AIMessage("Ten.")],
    "two humans": [HUMAN, HUMAN],
    "parallel calls, results in any order": [HUMAN, called("a", "b"), answered("b"), answered("a"), AIMessage("Ten.")],
    "calls in a row": [HUMAN, called("a"), answered("a"), called("b"), answered("b"), AIMessage("Ten.")],
    "thinking, then a call": [HUMAN, called("k1", content=[THINKING, USE]), answered("k1")],
    "thinking, the call beside the content": [HUMAN, called("k1", content=[THINKING]), answered("k1")],
    "reasoning, then text": [HUMAN, AIMessage([REASONING, TEXT])],
    "a search": [HUMAN, AIMessage([SEARCH, FOUND, TEXT])],
    "a call by a server's code": [
        HUMAN,
        called("k1", content=[SEARCH, USE]),
        answered("k1"),
        AIMessage([FOUND, TEXT]),
    ],
    "an approval": [
        HUMAN,
        AIMessage([APPROVAL]),
        HumanMessage([{"type": "mcp_approval_response", "approval_request_id": "m1", "approve": True}]),
    ],
}

REFUSED: dict[str, tuple[set[str], list[BaseMessage]]] = {
    "every_call_is_answered_right_behind_it": (set(), [HUMAN, called("a", "b"), answered("a"), AIMessage("x")]),
    "every_result_has_its_call": (set(), [HUMAN, called("a"), answered("a"), answered("a")]),
    "call_ids_are_unique": ({ANTHROPIC}, [HUMAN, called("a"), answered("a"), called("a"), answered("a")]),
    "call_ids_of_a_message_are_unique": ({OPENAI}, [HUMAN, called("a", "a"), answered("a"), answered("a")]),
    "every_call_has_an_id": ({OPENAI, ANTHROPIC}, [HUMAN, called(""), answered("")]),
    "a_call_follows_a_question_or_a_result": ({GEMINI}, [HUMAN, AIMessage("x"), called("a"), answered("a")]),
    "the_first_message_is_the_users": ({ANTHROPIC, GEMINI}, [SystemMessage("s"), AIMessage("x"), HUMAN]),
    "system_messages_are_in_front": ({ANTHROPIC, GEMINI}, [SystemMessage("s"), HUMAN, SystemMessage("s"), HUMAN]),
    "every_message_says_something": ({ANTHROPIC, GEMINI}, [HUMAN, AIMessage(" "), HUMAN]),
    "no_text_block_is_empty": ({ANTHROPIC}, [HUMAN, AIMessage([{"type": "text", "text": ""}, TEXT])]),
    "reasoning_is_followed_by_what_it_led_to": ({OPENAI, ANTHROPIC}, [HUMAN, AIMessage([TEXT, REASONING])]),
    "thinking_is_whole": ({ANTHROPIC}, [HUMAN, AIMessage([{"type": "thinking", "thinking": "Hm"}, TEXT])]),
    "every_call_of_a_server_has_its_result": ({ANTHROPIC}, [HUMAN, AIMessage([TEXT, SEARCH])]),
    "every_result_of_a_server_has_its_call": ({ANTHROPIC}, [HUMAN, AIMessage([FOUND, SEARCH])]),
    "code_is_followed_by_its_result": ({GEMINI}, [HUMAN, AIMessage([TEXT, {"type": "executable_code"}])]),
    "every_request_for_approval_is_decided": ({OPENAI}, [HUMAN, AIMessage([TEXT, APPROVAL])]),
    "no_block_is_half_made": (
        set(),
        [HUMAN, AIMessage([TEXT, {"type": "code_interpreter_call", "status": "interpreting"}])],
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_providers_accept(name: str) -> None:
    assert_accepted(ACCEPTED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_they_refuse(name: str) -> None:
    providers, messages = REFUSED[name]
    assert {fault.split(" ")[0] for fault in complaints(messages)} >= {name}
    assert complaints(messages, but=[name]) == [f for f in complaints(messages) if not f.startswith(f"{name} ")]
    if providers:
        others = {OPENAI, ANTHROPIC, GEMINI} - providers
        assert not [fault for fault in complaints(messages, others) if fault.startswith(f"{name} ")]


def test_each_rule_is_tried_and_sourced() -> None:
    assert {rule.name for rule in RULES} == set(REFUSED)
    assert all(rule.source and rule.providers for rule in RULES)


def test_calls_are_found_wherever_they_are() -> None:
    for message in (
        AIMessage([USE]),  # of a provider's own answer, which LangChain has not read
        AIMessage("", additional_kwargs={"tool_calls": [{"id": "k1", "function": {"name": "f", "arguments": "{"}}]}),
        AIMessage([{"type": "computer_call", "call_id": "k1", "id": "cu_1", "action": {}}]),
        called("k1"),
    ):
        assert any("'k1' has no result" in fault for fault in complaints([HUMAN, message, HUMAN]))
        assert_accepted([HUMAN, message, answered("k1")])
