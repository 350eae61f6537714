"""Chunks as the value that they make, and updates as the state that they leave: laws, without a database."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, RemoveMessage
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from pydantic import BaseModel

from langchain_supabase_history import InvalidMessage
from langchain_supabase_history.langchain.chunks import are_updates, folded, joined

words = st.text("ab ", max_size=4)
blocks = st.lists(st.builds(lambda text: {"type": "text", "text": text}, words), max_size=1)
spoken = st.one_of(words, st.builds(AIMessageChunk, st.one_of(words, blocks)), st.builds(AIMessage, words), st.none())


def text_of(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return "".join(map(text_of, value)) if isinstance(value, list) else value.text


@given(st.lists(spoken, max_size=8))
@example([AIMessageChunk(content=[]), AIMessageChunk(content="a"), AIMessageChunk(content="b")])
@example(
    [
        AIMessageChunk(content=""),
        AIMessageChunk(content=[]),
        AIMessageChunk(content="a"),
        AIMessageChunk(content=[{"type": "text", "text": "b"}]),
    ]
)
def test_no_text_is_lost(chunks: list[Any]) -> None:
    assert text_of(joined(chunks)) == "".join(map(text_of, chunks))


@given(st.lists(st.dictionaries(st.sampled_from("xyz"), words, max_size=3), min_size=2, max_size=6))
def test_dictionaries_are_joined_by_key_or_grow(chunks: list[dict[str, str]]) -> None:
    whole = joined(chunks)
    by_key = {key: "".join(chunk.get(key, "") for chunk in chunks) for chunk in chunks for key in chunk}
    grows = all(
        before != after and all(after.get(key, "").startswith(value) and key in after for key, value in before.items())
        for before, after in itertools.pairwise(chunks)
    )
    assert whole == (chunks[-1] if grows else by_key)


class Part(BaseModel):
    text: str


@pytest.mark.parametrize(
    ("chunks", "whole"),
    [
        ([], None),
        ([{"a": [1]}, {"a": [2]}], {"a": [1, 2]}),
        ([{"a": 1}, {"a": 2}], {"a": 2}),  # numbers are no text
        ([["a"], ["b"]], ["a", "b"]),
        ([Part(text="a"), Part(text="ab")], Part(text="ab")),
        ([{"context": ["d"]}, {"answer": "He"}, {"answer": "llo"}], {"context": ["d"], "answer": "Hello"}),
        (
            [{"answer": AIMessageChunk(content="He")}, {"answer": AIMessageChunk(content="llo")}],
            {"answer": AIMessageChunk(content="Hello")},
        ),
    ],
)
def test_chunks_of_other_kinds(chunks: list[Any], whole: Any) -> None:
    assert joined(chunks) == whole


@pytest.mark.parametrize("chunks", [["text", {"a": 1}], [{"a": 1}, AIMessage("b")], [object(), object()]])
def test_chunks_that_make_no_value(chunks: list[Any]) -> None:
    with pytest.raises(InvalidMessage, match="do not go together"):
        joined(chunks)


# --- updates

ids = st.sampled_from("abcdef")
message = st.builds(lambda kind, text, id: kind(text, id=id), st.sampled_from([AIMessage, HumanMessage]), words, ids)
removal = st.builds(lambda id: RemoveMessage(id=id), st.one_of(ids, st.just(REMOVE_ALL_MESSAGES)))
update = st.lists(st.one_of(message, message, removal), max_size=4)


def unique(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    return list({message.id: message for message in messages}.values())


@given(st.lists(message, max_size=4).map(unique), st.lists(update, max_size=5))
def test_updates_are_folded_as_langgraph_does(state: list[BaseMessage], updates: list[list[BaseMessage]]) -> None:
    expected: Any = copy.deepcopy(state)
    kept = []
    for one in updates:
        try:
            expected = add_messages(expected, copy.deepcopy(one))  # type: ignore[arg-type]
        except ValueError:  # it removes what is not there
            continue
        kept.append({"node": {"messages": one}})
    assert folded(state, kept) == expected


@pytest.mark.parametrize(
    ("chunks", "are"),
    [
        ([{"model": {"messages": [AIMessage("a")]}}, {"tools": None}], True),
        ([{"model": [{"messages": [AIMessage("a")]}, None]}], True),
        ([{"guard": {"jump_to": "end"}}], True),
        ([{"model": {"messages": []}}, {"__interrupt__": ()}], True),
        ([{"answer": "text"}], False),
        ([{"city": {"name": "Turin"}}], False),
        ([None, "text"], False),
        ([], False),
    ],
)
def test_what_updates_look_like(chunks: list[Any], are: bool) -> None:
    assert are_updates(chunks) is are
