"""What is read of a root run: known shapes, and nothing guessed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history.langsmith.run_messages import Said, messages_of

USER = {"role": "user", "content": "Where is Turin?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Turin"}'}}


def completion(*messages: dict[str, Any]) -> dict[str, Any]:
    choices = [{"index": n, "finish_reason": "stop", "message": message} for n, message in enumerate(messages)]
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": choices, "usage": {}}


def said(inputs: Any, outputs: Any) -> list[tuple[str, str]]:
    run: Any = SimpleNamespace(inputs=inputs, outputs=outputs)
    return [(message.type, message.text) for message in messages_of(run, Said())]


TURN = [("human", "Where is Turin?"), ("ai", "On the Po.")]
ANSWER = {"role": "assistant", "content": "On the Po."}


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"messages": [USER], "model": "m"}, completion(ANSWER)),
        ({"messages": [USER]}, completion(ANSWER, {"role": "assistant", "content": "Elsewhere."})),
        ({"input": {"question": "Where is Turin?"}}, {"output": {"answer": "On the Po."}}),
        ({"inputs": {"input": {"messages": [USER]}}}, {"outputs": {"message": ANSWER}}),
        (
            {"input": [USER]},
            {
                "output": [
                    {"type": "message", "content": [{"type": "output_text", "text": "On the Po."}], "role": "assistant"}
                ]
            },
        ),
        ({"messages": [{"type": "human", "role": "user", "content": "Where is Turin?"}]}, {"output": ANSWER}),
        ({"question": "Where is Turin?", "customer": "c-1001"}, {"answer": "On the Po.", "status": "ok"}),
        ({"topic": "Where is Turin?"}, {"reply": "On the Po."}),
        (
            {"asked": HumanMessage("Where is Turin?"), "customer": "c-1001"},
            {"status": "ok", "reply": AIMessage("On the Po.")},
        ),
        ({"text": "Where is Turin?"}, {"generations": [[{"text": "x", "message": ANSWER}]]}),
    ],
)
def test_known_shapes(inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    assert said(inputs, outputs) == TURN


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"customer": "c-1001", "asked": "Where is Turin?"}, {"status": "ok", "reply": "On the Po."}),
        ({"customer": "c-1001", "n": 7}, {"id": "chatcmpl-1", "choices": []}),
        ({"a": {"b": "c"}}, {"x": ["y", "z"]}),
        ({}, None),
        ({"input": {"a": "b", "c": "d"}}, {"output": 7}),
        ({"session_id": "s-1"}, {"status": "ok"}),
        ({"input": {"user_id": "u-1"}}, {"output": {"id": "chatcmpl-1"}}),
        ({"model": "m"}, {"error": "boom"}),
    ],
)
def test_nothing_is_guessed(inputs: Any, outputs: Any) -> None:
    assert said(inputs, outputs) == []


def test_calls_of_a_completion_are_read() -> None:
    run: Any = SimpleNamespace(
        inputs={"messages": [USER]}, outputs=completion({"role": "assistant", "content": None, "tool_calls": [CALL]})
    )
    _, answer = messages_of(run, Said())
    assert isinstance(answer, AIMessage)
    assert answer.tool_calls == [{"name": "find", "args": {"city": "Turin"}, "id": "c1", "type": "tool_call"}]
