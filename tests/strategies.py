"""Hypothesis strategies: messages with everything in them, and conversations."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from typing import Any

from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


any_text = st.text(st.characters())  # every code point, NUL and lone surrogates among them
# What passes through a server written in JavaScript unchanged: no whole float (1.0 becomes 1), no integer beyond
# 2^53, no float that it prints with other digits. PostgreSQL and PostgREST keep all of them.
js_floats = st.floats(-1e12, 1e12).map(lambda x: round(x, 3)).filter(lambda x: not x.is_integer())
js_ints = st.integers(-(2**53), 2**53)


def scalars(js: bool) -> st.SearchStrategy[Any]:
    numbers = [js_floats, js_ints, st.integers(2**64)] if js else [st.floats(), st.integers()]
    return st.one_of(
        st.none(),
        st.booleans(),
        any_text,
        *numbers,
        st.sampled_from([float("inf"), float("-inf")]),
        st.binary(),
        st.datetimes(timezones=st.none() | st.just(dt.UTC)),
        st.dates(),
        st.times(),
        st.timedeltas(),
        st.uuids(),
        st.decimals(allow_nan=False),
        st.sampled_from(Colour),
    )


def values(js: bool) -> st.SearchStrategy[Any]:
    def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        hashable = st.one_of(st.integers(0, 99), st.text(max_size=3), st.uuids())
        return st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(any_text, inner, max_size=3),
            st.dictionaries(hashable, inner, max_size=3),
            st.fixed_dictionaries({"$type": inner, "value": inner}),
            st.sets(hashable, max_size=3),
            st.frozensets(hashable, max_size=3),
            st.binary(max_size=5).map(bytearray),
        )

    return st.recursive(scalars(js), deeper, max_leaves=6)


def _calls(ids: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    args = st.dictionaries(any_text, values, max_size=2)
    return st.tuples(*(st.fixed_dictionaries({"name": any_text, "args": args, "id": st.just(i)}) for i in ids)).map(
        list
    )


def messages(js: bool = False) -> st.SearchStrategy[BaseMessage]:
    """Any message that LangChain's classes accept."""
    value = values(js)
    block = st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "text": any_text}),
        st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": any_text})}),
        st.fixed_dictionaries({"type": st.just("image"), "base64": any_text, "mime_type": st.just("image/png")}),
        st.fixed_dictionaries({"type": st.just("reasoning"), "reasoning": any_text, "extras": value}),
    )
    content = any_text | st.lists(any_text | block, max_size=3)
    extras = st.dictionaries(st.text(max_size=4) | st.integers(0, 9), value, max_size=2)
    # Keys that LangChain's own validators read and change on construction are left to the examples.
    extras = extras.filter(lambda d: not {"tool_calls", "function_call"} & {k for k in d if isinstance(k, str)})
    common: dict[str, Any] = {
        "content": content,
        "additional_kwargs": extras,
        "response_metadata": extras,
        "id": st.none() | any_text,
        "name": st.none() | any_text,
    }
    field = st.text("abcdefgh_", min_size=3, max_size=6).map("extra_".__add__)
    more = st.dictionaries(field, value, max_size=1)

    def build(cls: type[BaseMessage], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[BaseMessage]:
        return st.builds(lambda given, more: cls(**given, **more), st.fixed_dictionaries({**common, **fields}), more)

    counts = st.integers(0, 10**6)
    usage = st.none() | st.builds(
        lambda i, o, c: {
            "input_tokens": i,
            "output_tokens": o,
            "total_tokens": i + o,
            "input_token_details": {"cache_read": c},
        },
        counts,
        counts,
        counts,
    )
    invalid = st.fixed_dictionaries(
        {
            "name": st.none() | any_text,
            "args": st.none() | any_text,
            "id": st.none() | any_text,
            "error": st.none() | any_text,
            "type": st.just("invalid_tool_call"),
        }
    )
    return st.one_of(
        build(HumanMessage),
        build(SystemMessage),
        build(ChatMessage, role=any_text),
        build(FunctionMessage, name=any_text),
        build(
            ToolMessage,
            tool_call_id=any_text,
            artifact=value,
            status=st.sampled_from(["success", "error"]),
        ),
        build(
            AIMessage,
            tool_calls=st.integers(0, 2).flatmap(lambda n: _calls([f"c{i}" for i in range(n)], value)),
            invalid_tool_calls=st.lists(invalid, max_size=1),
            usage_metadata=usage,
        ),
    )


def new_uuid() -> str:
    return str(uuid.uuid4())
