"""Messages survive the round trip, in pure code and through both transports."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import json
import os
import subprocess
import sys
import uuid
from decimal import Decimal
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel

from langchain_supabase_history import HistoryStore, InvalidMessage, Turn
from langchain_supabase_history.core.arguments import turn_json
from langchain_supabase_history.core.messages import (
    decode_message,
    decode_rows,
    encode_message,
)
from langchain_supabase_history.core.repair import without_unanswered_calls
from langchain_supabase_history.core.tokens import MEDIA_TOKENS
from langchain_supabase_history.core.values import encode
from tests.conftest import Api
from tests.strategies import Colour, messages


def there_and_back(message: BaseMessage) -> BaseMessage:
    encoded = encode_message(message)
    return decode_message(encoded.type, orjson.loads(encoded.data))


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down (1, 1.0 and True are equal to `==`; NaN is not equal to itself)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, BaseMessage):
        return same({**vars(a), **(a.model_extra or {})}, {**vars(b), **(b.model_extra or {})})
    if isinstance(a, dict):
        return len(a) == len(b) and all(k in b and same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and str(a) == str(b) if isinstance(a, float) and a == a else a == b or (a != a and b != b)


@settings(max_examples=400, deadline=None)
@given(messages())
def test_every_message_survives_encoding(message: BaseMessage) -> None:
    before = copy.deepcopy(message)
    assert same(there_and_back(message), message)
    assert same(message, before)  # the caller's object is left alone


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversation=st.lists(messages(), min_size=1, max_size=4))
def test_every_message_survives_psycopg(postgres_store: HistoryStore, conversation: list[BaseMessage]) -> None:
    name = f"s-{uuid.uuid4()}"
    postgres_store.append(name, conversation)
    assert all(map(same, [m.message for m in postgres_store.messages(name)], conversation))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversation=st.lists(messages(js=True), min_size=1, max_size=4))
def test_every_message_survives_the_data_api(data_api_store: HistoryStore, conversation: list[BaseMessage]) -> None:
    """But for what the JavaScript server of these tests does to numbers, which PostgREST does not: see `strategies`."""
    name = f"s-{uuid.uuid4()}"
    data_api_store.append(name, conversation)
    assert all(map(same, [m.message for m in data_api_store.messages(name)], conversation))


CALL = {"name": "search", "args": {"q": "x"}, "id": "c1", "type": "tool_call"}
NUMBERS = {"logprobs": [-0.0, 1e22, 1e-7, 0.1 + 0.2], "ids": [2**53 + 1, 2**63, 2**64 - 1, 2**80, -(2**63)]}
EXAMPLES: list[BaseMessage] = [
    HumanMessage("plain"),
    HumanMessage("", name="ada", id="h1"),
    HumanMessage([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:,x"}}]),
    HumanMessage(
        content_blocks=[{"type": "text", "text": "v1"}, {"type": "image", "url": "https://example.com/a.png"}]
    ),
    AIMessage("", tool_calls=[CALL], usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    AIMessage("x", invalid_tool_calls=[{**CALL, "args": "{", "error": "bad", "type": "invalid_tool_call"}]),
    AIMessage("x", additional_kwargs={"function_call": {"name": "f", "arguments": "{}"}}),
    AIMessage("numbers", response_metadata=NUMBERS),
    AIMessage(content_blocks=[{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "so"}]),
    AIMessage("x", additional_kwargs={"at": dt.datetime(2026, 1, 1, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=2)))}),
    SystemMessage("be brief", id="s"),
    ToolMessage("42", tool_call_id="c1", artifact={"rows": ({1, 2}, b"\xff", Decimal("1.10"))}, status="error"),
    ChatMessage(content="x", role="critic"),
    HumanMessage("extra", custom_field={"deep": [float("nan"), float("-inf")]}),
    HumanMessage("NUL \x00 \\u0000 surrogate \ud800 \udfff\ud800 pair 😀"),
    AIMessage("enum", additional_kwargs={"c": Colour.BLUE, 1: "one", None: 2, ("t",): 3, "$type": "mine"}),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: f"{m.type}-{str(m.content)[:12]!r}")
def test_messages_as_they_are_met(api: Api, session: str, message: BaseMessage) -> None:
    api.append(session, [message])
    (stored,) = api.messages(session)
    if api.store.driver.__class__.__name__ == "DataApiDriver" and message.content == "numbers":
        # The JavaScript server between makes -0.0 to 0 and rounds integers beyond 2^53; nothing else may change.
        assert stored.message.response_metadata["logprobs"][1:] == [1e22, 1e-7, 0.1 + 0.2]
        assert stored.message.response_metadata["ids"][3] == 2**80
        return
    assert same(stored.message, message)


def test_chunks_become_whole_messages() -> None:
    chunk = AIMessageChunk(content="Hel", id="a") + AIMessageChunk(content="lo", id="a", chunk_position="last")
    assert same(there_and_back(chunk), AIMessage("Hello", id="a"))


def test_models_and_dataclasses_come_back_as_their_dump() -> None:
    @dataclasses.dataclass
    class Score:
        value: float

    document = Document("text", metadata={"at": dt.date(2026, 1, 1)}, id="d1")
    message = there_and_back(ToolMessage("x", tool_call_id="c", artifact=[document, Score(0.5)]))
    assert isinstance(message, ToolMessage)
    assert message.artifact == [document.model_dump(), {"value": 0.5}]


def test_defaults_are_not_stored() -> None:
    assert json.loads(encode_message(AIMessage("x")).data) == {"content": "x"}
    assert encode({"a": [1, 2.5, "x", None, True]}) == {"a": [1, 2.5, "x", None, True]}


def test_an_artifact_that_cannot_be_encoded_is_marked_and_reported(shared_database: str, session: str) -> None:
    told: list[Any] = []
    with HistoryStore.from_postgres(
        shared_database, on_error=lambda error, messages: told.append((error, messages))
    ) as store:
        given = [ToolMessage("ok", tool_call_id="c1", artifact=object())]
        store.append(session, given)
        (stored,) = store.messages(session)
    assert stored.message.artifact == {"$type": "unencodable", "class": "builtins:object"}  # type: ignore[attr-defined]
    ((error, about),) = told
    assert isinstance(error, InvalidMessage)
    assert "messages[0].artifact" in str(error)
    assert about == given


def test_what_contains_itself_is_refused_by_name() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidMessage, match=r"additional_kwargs\.a.*contains itself"):
        encode_message(HumanMessage("x", additional_kwargs={"a": loop}))


def test_a_message_at_the_bound_passes_and_beyond_it_does_not() -> None:
    size = len(encode_message(HumanMessage("")).data)
    assert encode_message(HumanMessage("x" * 100), max_bytes=size + 100)
    with pytest.raises(InvalidMessage, match="max_message_bytes"):
        encode_message(HumanMessage("x" * 101), max_bytes=size + 100)


def test_an_enum_is_not_imported_for_a_rows_sake() -> None:
    tagged = {"$type": "enum", "class": "antigravity:Unknown", "name": "X", "value": "plain"}
    message = decode_message("human", {"content": "x", "additional_kwargs": {"e": tagged}})
    assert message.additional_kwargs["e"] == "plain"


@pytest.mark.parametrize(
    "data",
    [
        '{"no": "content"}',
        '{"content": 7}',
        '"text"',
        "[]",
        '{"content": {"$type": "dict", "value": 3}}',
        '{"content": "\\ud800"}',
    ],
)
@pytest.mark.parametrize("kind", ["human", "from-the-future", ""])
def test_a_row_that_cannot_be_read_never_takes_the_session_down(database: str, data: str, kind: str) -> None:
    with HistoryStore.from_postgres(database) as store:
        store.append("s", [HumanMessage("before"), HumanMessage("odd"), HumanMessage("after")])
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("update chat_history_messages set type = %s, data = %s where position = 2", [kind, data])
        loaded = store.load("s")
        assert [m.text for m in loaded if m.text in ("before", "after")] == ["before", "after"]
        listed = [m.message for m in store.messages("s")]
        assert len(listed) == 3
        if len(loaded) == 2:
            assert isinstance(listed[1], ChatMessage)
            assert "unreadable" in listed[1].additional_kwargs


def test_one_broken_row_among_many_is_found() -> None:
    found, unreadable = decode_rows([("human", '{"content": "a"}'), ("human", "{"), ("ai", '{"content": "b"}')])
    assert ([m.text for m in found], unreadable) == (["a", "b"], 1)


# --- what a provider accepts


def calls(*ids: str) -> list[dict[str, Any]]:
    return [{"name": "f", "args": {}, "id": i, "type": "tool_call"} for i in ids]


def tool(call_id: str) -> ToolMessage:
    return ToolMessage("r", tool_call_id=call_id)


CONVERSATION = st.lists(
    st.one_of(
        st.just("human"),
        st.sets(st.sampled_from("abc"), max_size=3).map(lambda ids: ("ai", tuple(sorted(ids)))),
        st.sampled_from("abc").map(lambda i: ("tool", i)),
    ),
    max_size=12,
)


@settings(max_examples=500, deadline=None)
@given(CONVERSATION)
def test_every_call_has_its_answer_and_every_answer_its_call(shape: list[Any]) -> None:
    given_messages: list[BaseMessage] = []
    for part in shape:
        if part == "human":
            given_messages.append(HumanMessage("q"))
        elif part[0] == "ai":
            given_messages.append(AIMessage("text" if len(part[1]) % 2 else "", tool_calls=calls(*part[1])))
        else:
            given_messages.append(tool(part[1]))
    before = copy.deepcopy(given_messages)
    kept = without_unanswered_calls(given_messages)
    assert given_messages == before
    open_calls: set[str | None] = set()
    for message in kept:
        if isinstance(message, ToolMessage):
            assert message.tool_call_id in open_calls
            open_calls.remove(message.tool_call_id)
        else:
            assert not open_calls
            open_calls = {c["id"] for c in message.tool_calls} if isinstance(message, AIMessage) else set()
    assert not open_calls
    assert [m for m in kept if m.type == "human"] == [m for m in given_messages if m.type == "human"]
    assert without_unanswered_calls(kept) == kept


def test_calls_are_taken_out_of_every_place_where_they_stand() -> None:
    message = AIMessage(
        [
            {"type": "text", "text": "thinking"},
            {"type": "tool_use", "id": "a", "name": "f", "input": {}},
            {"type": "function_call", "call_id": "b", "id": "fc_1", "name": "f", "arguments": "{}"},
        ],
        tool_calls=calls("a", "b"),
        invalid_tool_calls=[{"name": "f", "args": "{", "id": "z", "error": None, "type": "invalid_tool_call"}],
        additional_kwargs={"tool_calls": [{"id": "a"}, {"id": "b"}], "other": 1},
    )
    (kept, _) = without_unanswered_calls([message, tool("b")])
    assert isinstance(kept, AIMessage)
    assert [block["type"] for block in kept.content] == ["text", "function_call"]  # type: ignore[index]
    assert ([c["id"] for c in kept.tool_calls], kept.invalid_tool_calls) == (["b"], [])
    assert kept.additional_kwargs == {"tool_calls": [{"id": "b"}], "other": 1}
    (bare,) = without_unanswered_calls([message])
    assert (bare.text, bare.additional_kwargs) == ("thinking", {"other": 1})


def test_tokens_are_the_callers_or_the_providers_or_estimated() -> None:
    assert encode_message(HumanMessage("x"), count_tokens=lambda m: 7).tokens == 7
    usage = {"input_tokens": 100, "output_tokens": 5, "total_tokens": 105}
    assert encode_message(AIMessage("a long answer " * 50, usage_metadata=usage)).tokens == 5
    for text in ("", "hello", "héllo wörld " * 9, "日本語" * 50):
        assert encode_message(HumanMessage(text)).tokens >= len(text.encode()) / 4


LONG = "A" * 400_000
MEDIA: dict[str, dict[str, Any]] = {
    "LangChain's": {"type": "image", "base64": LONG, "mime_type": "image/png"},
    "LangChain's older": {"type": "image", "source_type": "base64", "data": LONG, "mime_type": "image/png"},
    "OpenAI's data URL": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{LONG}"}},
    "a data URL as a string": {"type": "image_url", "image_url": f"data:image/png;base64,{LONG}"},
    "an address": {"type": "image", "url": "https://example.com/a.png"},
    "OpenAI's responses": {"type": "input_image", "image_url": f"data:image/png;base64,{LONG}"},
    "Anthropic's": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": LONG}},
    "Anthropic's document": {"type": "document", "source": {"type": "base64", "data": LONG}},
    "Gemini's API": {"inline_data": {"mime_type": "image/png", "data": LONG}},
    "Bedrock's": {"image": {"format": "png", "source": {"bytes": b"A" * 400_000}}},
    "a computer's screen": {"type": "computer_screenshot", "image_url": f"data:image/png;base64,{LONG}"},
    "Gemini's": {"type": "media", "mime_type": "image/png", "data": b"A" * 400_000},
    "a recording": {"type": "input_audio", "input_audio": {"data": LONG, "format": "wav"}},
    "a standard recording": {"type": "audio", "base64": LONG, "mime_type": "audio/wav"},
    "a film": {"type": "video", "base64": LONG, "mime_type": "video/mp4"},
    "a file": {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{LONG}", "filename": "a.pdf"}},
    "a standard file": {"type": "file", "base64": LONG, "mime_type": "application/pdf"},
    "OpenAI's input file": {"type": "input_file", "file_data": LONG},
    "a picture that was made": {"type": "image_generation_call", "id": "ig_1", "result": LONG},
    "in a tool's result": {"type": "tool_result", "content": [{"type": "image", "base64": LONG}]},
    "wrapped": {"type": "non_standard", "value": {"type": "image", "source": {"type": "base64", "data": LONG}}},
}


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("kind", [HumanMessage, AIMessage, lambda content: ToolMessage(content, tool_call_id="c")])
def test_media_count_at_a_flat_price(name: str, kind: Any) -> None:
    text = {"type": "text", "text": "What is this?"}
    both, alone = (encode_message(kind(content)).tokens for content in ([text, MEDIA[name]], [text]))
    assert MEDIA_TOKENS <= both - alone <= MEDIA_TOKENS + 20
    assert encode_message(kind([MEDIA[name]]), count_tokens=lambda m: 7).tokens == 7


def test_texts_of_documents_count_as_texts() -> None:
    for block in (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "word " * 10_000}},
        {"type": "text-plain", "text": "word " * 10_000, "mime_type": "text/plain"},
        {"type": "tool_result", "content": "word " * 10_000},
    ):
        assert encode_message(HumanMessage([block])).tokens >= 12_500
    assert encode_message(HumanMessage([MEDIA["a film"]] * 3)).tokens >= 3 * MEDIA_TOKENS


class Hostile(BaseModel):
    def model_dump(self, **options: Any) -> Any:
        raise RuntimeError("not to be dumped")


class Ambiguous:
    """Compares as arrays do, element by element."""

    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Float(float):
    """As numpy's: a float, and not to every encoder."""


@dataclasses.dataclass(frozen=True)
class Point:
    x: int


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {1: value}
    return value


@pytest.mark.parametrize("artifact", [Ambiguous(), [Ambiguous()], Hostile(), nested(90), {Point(1): 2}, object()])
def test_no_artifact_costs_a_message(artifact: Any) -> None:
    message = ToolMessage("ok", tool_call_id="c1", artifact=artifact)
    encoded = encode_message(message, "messages[1]")
    (warning,) = encoded.warnings
    assert warning.startswith("messages[1].artifact: ")
    back = decode_message(encoded.type, json.loads(encoded.data))
    assert back.artifact["$type"] == "unencodable"  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [Float(0.5), nested(75), [nested(70)]])
def test_odd_values_are_kept(value: Any) -> None:
    message = AIMessage("x", response_metadata={"value": value})
    assert there_and_back(message) == message
    assert turn_json(Turn(uuid.uuid4(), metadata={"value": value}))


@pytest.mark.parametrize(("value", "back"), [({Point(1)}, [{"x": 1}]), ([frozenset({Point(2)})], [[{"x": 2}]])])
def test_a_set_of_models_comes_back_as_a_list(value: Any, back: Any) -> None:
    assert there_and_back(AIMessage("x", response_metadata={"v": value})).response_metadata["v"] == back


@pytest.mark.parametrize("value", [Hostile(), {Point(1): 2}, nested(90), [Ambiguous()]])
def test_what_cannot_be_encoded_is_refused_by_its_own_field(value: Any) -> None:
    with pytest.raises(InvalidMessage, match=r"messages\[0\] cannot be stored: field 'response_metadata"):
        encode_message(AIMessage("x", response_metadata={"v": value}), "messages[0]")
    with pytest.raises(InvalidMessage, match=r"turn\.metadata"):
        turn_json(Turn(uuid.uuid4(), metadata={"v": value}))


def test_a_set_is_the_same_in_every_process() -> None:
    code = (
        "from langchain_core.messages import AIMessage;"
        "from langchain_supabase_history.core.messages import encode_message;"
        "print(encode_message(AIMessage('x', additional_kwargs={'s': set('abcdefgh'), 'f': frozenset('xyz')})).data)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in "123"
    }
    assert len(told) == 1


@pytest.mark.parametrize(
    "tagged",
    [
        {"$type": "datetime", "value": "NaT"},
        {"$type": "uuid", "value": 7},
        {"$type": "dict", "value": [[{"a": 1}, 2]]},
        {"$type": "tuple", "value": None},
    ],
)
def test_a_tag_that_is_not_ours_stays_and_costs_nothing(tagged: Any) -> None:
    message = decode_message("human", {"content": "x", "additional_kwargs": {"v": tagged}})
    assert message.additional_kwargs == {"v": tagged}


@pytest.mark.parametrize(
    ("count", "told"),
    [(lambda m: 1.5, "gave 1.5"), (lambda m: -1, "gave -1"), (lambda m: dict[str, int]()["x"], "raised KeyError")],
)
def test_a_count_that_fails_is_replaced_by_an_estimate(count: Any, told: str) -> None:
    encoded = encode_message(HumanMessage("x" * 40), "messages[0]", count_tokens=count)
    assert encoded.tokens == 14
    assert encoded.warnings == [f"messages[0]: count_tokens {told}; an estimate is stored in its place"]


def test_a_negative_usage_is_no_count() -> None:
    usage = {"input_tokens": 1, "output_tokens": -5, "total_tokens": 1}
    assert encode_message(AIMessage("x" * 40, usage_metadata=usage)).tokens == 14
