"""Windows: each equals its definition in Python, is accepted by providers, and costs the same on any session."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_supabase_history import HistoryStore, InvalidSession, Turn, Window
from langchain_supabase_history.core.messages import encode_message
from langchain_supabase_history.core.repair import without_unanswered_calls
from tests.conftest import Api
from tests.transcripts import transcripts
from tests.validator import assert_accepted

Row = tuple[BaseMessage, int, bool]  # message, tokens, whether it begins a turn


def texts(messages: list[BaseMessage]) -> list[str]:
    return [m.text for m in messages]


def by_text(message: BaseMessage) -> int:
    """The tests' token counter: a message's text ends in its count."""
    return int(message.text.rsplit("#", 1)[1]) if "#" in message.text else 1


# --- the definition


def newest(rows: list[Row], first: int, messages: int | None, budget: int | None) -> int:
    """Where the newest messages begin that are within both limits; behind all of them where none is."""
    start, spent = len(rows), 0
    while start > first and (messages is None or len(rows) - start < messages):
        spent += rows[start - 1][1]
        if budget is not None and spent > budget:
            break
        start -= 1
    return start


def whole_steps(rows: list[Row], first: int, start: int, budget: int | None) -> int:
    """Where the messages from `start` begin with one that is no result: the newest call with its results at least."""
    if start == len(rows) or any(row[0].type != "tool" for row in rows[start:]):
        return next((i for i in range(start, len(rows)) if rows[i][0].type != "tool"), len(rows))
    for i in range(start - 1, first - 1, -1):
        if budget is not None and sum(tokens for _, tokens, _ in rows[i:]) > budget:
            break
        if rows[i][0].type != "tool":
            return i
    return len(rows)


def latest(rows: list[Row], first: int, window: Window, budget: int | None) -> list[Row]:
    """The latest messages within the limits, beginning with a human message."""
    start = newest(rows, first, window.messages, budget)
    turns = [i for i in range(first, len(rows)) if rows[i][2]]
    of_turns = turns[-window.turns] if window.turns is not None and len(turns) >= window.turns else first
    start = max(start, of_turns)
    if start == first:
        return rows[start:]
    for i in range(start, len(rows)):
        if rows[i][0].type == "human":
            return rows[i:]
    humans = [i for i in range(first, len(rows)) if rows[i][0].type == "human"]
    question, tokens = (rows[humans[-1] : humans[-1] + 1], rows[humans[-1]][1]) if humans else ([], 0)
    if budget is not None and tokens > budget:
        return [rows[i] for i in humans if rows[i][1] <= budget][-1:]
    left = None if budget is None else budget - tokens
    behind = humans[-1] + 1 if humans else first
    messages = None if window.messages is None else max(1, window.messages - len(question))
    tail = newest(rows, max(behind, len(rows) - (window.messages or len(rows)), of_turns), messages, left)
    return [*question, *rows[whole_steps(rows, behind, tail, left) :]]


def definition(rows: list[Row], window: Window) -> list[BaseMessage]:
    """What a window is, over the messages in context."""
    budget = window.tokens
    system = rows[:1] if rows and rows[0][0].type == "system" and window.keep_system else []
    if system and budget is not None and system[0][1] >= budget:
        system = []
    found = latest(rows, len(system), window, None if budget is None else budget - sum(map(TOKENS, system)))
    if not found and system:
        found = latest(rows, 0, window, budget)
        system = system if not found else []
    return without_unanswered_calls([message for message, _, _ in [*system, *found]])


TOKENS = operator.itemgetter(1)


# --- random conversations with tools, failures and interruptions


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[str, list[BaseMessage]]]:
    number = iter(range(1000))

    def text(kind: str) -> str:
        return f"{kind}{next(number)}#{draw(st.sampled_from([0, 1, 2, 5, 20]))}"

    turns: list[tuple[str, list[BaseMessage]]] = []
    if draw(st.booleans()):
        turns.append(("completed", [SystemMessage(text("s"))]))
    for _ in range(draw(st.integers(0, 6))):
        messages: list[BaseMessage] = [HumanMessage(text("h"))] if draw(st.integers(0, 5)) else []
        for _ in range(draw(st.integers(0, 3))):
            ids = [f"c{next(number)}" for _ in range(draw(st.integers(1, 3)))]
            calls = [{"name": "f", "args": {}, "id": i, "type": "tool_call"} for i in ids]
            said = text("a") if draw(st.booleans()) else ""
            messages.append(AIMessage(said, tool_calls=calls))
            messages += [ToolMessage(text("t"), tool_call_id=i) for i in ids if draw(st.integers(0, 4))]
        if draw(st.integers(0, 3)):
            messages.append(AIMessage(text("a")))
        if messages:
            turns.append((draw(st.sampled_from(["completed"] * 4 + ["interrupted", "failed"])), messages))
    return turns


limits = st.none() | st.integers(1, 12)
windows = st.builds(
    Window,
    messages=limits,
    turns=st.none() | st.integers(1, 4),
    tokens=st.none() | st.integers(1, 60),
    keep_system=st.booleans(),
)


windows_of_agents = st.one_of(
    st.builds(Window, messages=st.integers(1, 20)),
    st.builds(Window, turns=st.integers(1, 4)),
    st.builds(Window, tokens=st.integers(1, 300)),
    st.builds(Window, messages=st.integers(1, 20), tokens=st.integers(1, 300), keep_system=st.booleans()),
)


def store_conversation(store: HistoryStore, session: str, turns: list[tuple[str, list[BaseMessage]]]) -> list[Row]:
    rows: list[Row] = []
    for status, messages in turns:
        store.append(session, messages, turn=Turn(uuid.uuid4(), status=status))  # type: ignore[arg-type]
        if status != "failed":
            rows += [(m, by_text(m), n == 0) for n, m in enumerate(messages)]
    return rows


def check_window(window: Window, rows: list[Row], got: list[BaseMessage]) -> None:
    assert got == definition(rows, window)
    # What must hold whatever the definition says.
    assert without_unanswered_calls(got) == got
    assert not got or got[0].type != "tool"
    if window.tokens is not None:
        assert sum(map(by_text, got)) <= window.tokens
    if any(m.type == "human" and (window.tokens is None or tokens <= window.tokens) for m, tokens, _ in rows):
        assert [m for m in got if m.type != "system"]
    begins_with = next((m.type for m, _, _ in rows if m.type != "system"), "human")
    if begins_with == "human":  # here some turns have no question, as reminders of an application's own
        assert_accepted(got, but=["a_call_follows_a_question_or_a_result"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(turns=transcripts(), asked=st.lists(windows_of_agents, min_size=3, max_size=8))
def test_providers_accept_every_window_of_an_agents_conversation(store: HistoryStore, turns: Any, asked: Any) -> None:
    session = f"s-{uuid.uuid4()}"
    for status, messages in turns:
        store.append(session, messages, turn=Turn(uuid.uuid4(), status=status))
    assert_accepted(store.load(session))
    for window in asked:
        got = store.load(session, window)
        assert_accepted(got)
        spoken = [m for m in got if m.type != "system"]
        assert spoken or window.tokens is not None
        assert len(spoken) <= (window.messages or len(spoken)) or _is_one_step(spoken)


def _is_one_step(messages: list[BaseMessage]) -> bool:
    """Whether this is a question and one call with its results, which no limit of messages parts."""
    return [m.type for m in messages[:2]] == ["human", "ai"] and all(m.type == "tool" for m in messages[2:])


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(turns=conversations(), asked=st.lists(windows, min_size=3, max_size=8))
def test_a_window_is_its_definition(counting: HistoryStore, turns: list[Any], asked: list[Window]) -> None:
    session = f"s-{uuid.uuid4()}"
    rows = store_conversation(counting, session, turns)
    for window in asked:
        check_window(window, rows, counting.load(session, window))


@pytest.fixture(scope="module")
def counting(shared_database: str) -> Iterator[HistoryStore]:
    with HistoryStore.from_postgres(shared_database, count_tokens=by_text) as store:
        store.load("started")
        yield store


# --- by example, on every driver and through every door


def hai(n: int) -> list[BaseMessage]:
    return [HumanMessage(f"h{n}"), AIMessage(f"a{n}")]


def test_the_last_messages_turns_and_tokens(api: Api, session: str) -> None:
    api.append(session, [SystemMessage("s")])
    for n in range(10):
        api.append(session, hai(n))
    assert texts(api.load(session, Window(messages=4))) == ["s", "h8", "a8", "h9", "a9"]
    assert texts(api.load(session, Window(messages=3, keep_system=False))) == [
        "h9",
        "a9",
    ]  # begins with a human message
    assert texts(api.load(session, Window(turns=3, keep_system=False))) == ["h7", "a7", "h8", "a8", "h9", "a9"]
    tokens = sum(encode_message(m).tokens for m in hai(9))
    assert texts(api.load(session, Window(tokens=2 * tokens, keep_system=False))) == ["h8", "a8", "h9", "a9"]
    assert texts(api.load(session, Window(tokens=2 * tokens, turns=1, keep_system=False))) == ["h9", "a9"]
    assert len(api.load(session, Window(messages=100))) == 21
    assert len(api.load(session, Window())) == 21
    assert texts(api.with_window(Window(turns=1, keep_system=False)).load(session)) == ["h9", "a9"]
    assert api.load(f"{session}-none", Window(turns=1)) == []


def test_a_window_reaches_back_to_the_calling_message(api: Api, session: str) -> None:
    call = {"name": "f", "args": {}, "id": "c", "type": "tool_call"}
    many = [{**call, "id": f"c{n}"} for n in range(5)]
    results = [ToolMessage(f"t{n}", tool_call_id=f"c{n}") for n in range(5)]
    api.append(session, [HumanMessage("h"), AIMessage("calling", tool_calls=many), *results])
    assert texts(api.load(session, Window(messages=2))) == ["h", "calling", "t0", "t1", "t2", "t3", "t4"]
    api.append(session, [AIMessage("", tool_calls=[call])])  # a call that was never answered is all the window holds
    assert texts(api.load(session, Window(messages=1))) == ["h"]


def test_a_window_within_a_loop_of_tools_begins_with_its_question(api: Api, session: str) -> None:
    loop: list[BaseMessage] = []
    for n in range(10):
        call = {"name": "f", "args": {}, "id": f"c{n}", "type": "tool_call"}
        loop += [AIMessage(f"a{n}", tool_calls=[call]), ToolMessage(f"t{n}", tool_call_id=f"c{n}")]
    api.append(session, [SystemMessage("s"), HumanMessage("old"), AIMessage("older")])
    api.append(session, [HumanMessage("question"), *loop])
    for window, wanted in (
        (Window(messages=5), ["s", "question", "a8", "t8", "a9", "t9"]),
        (Window(messages=4), ["s", "question", "a9", "t9"]),
        (Window(messages=3, keep_system=False), ["question", "a9", "t9"]),
        (Window(messages=1, keep_system=False), ["question", "a9", "t9"]),
        (Window(turns=1, messages=5), ["s", "question", "a8", "t8", "a9", "t9"]),
        (Window(turns=1), ["s", "question", *texts(loop)]),
    ):
        assert texts(api.load(session, window)) == wanted, window
    each = encode_message(HumanMessage("question")).tokens, sum(encode_message(m).tokens for m in loop[-2:])
    two = Window(tokens=each[0] + 2 * each[1], keep_system=False)
    assert texts(api.load(session, two)) == ["question", "a8", "t8", "a9", "t9"]
    assert texts(api.load(session, Window(tokens=each[0] + 1, keep_system=False))) == ["question"]


def test_a_picture_does_not_push_out_the_conversation(api: Api, session: str) -> None:
    picture = {"type": "image", "base64": "A" * 400_000, "mime_type": "image/png"}
    api.append(session, [HumanMessage("I am Ada."), AIMessage("Hello.")])
    api.append(session, [HumanMessage([{"type": "text", "text": "What is this?"}, picture]), AIMessage("A cat.")])
    assert texts(api.load(session, Window(tokens=8000))) == ["I am Ada.", "Hello.", "What is this?", "A cat."]
    api.append(session, [HumanMessage("And now?"), AIMessage("Still.")])
    assert len(api.load(session, Window(tokens=2000))) == 6


def test_the_newest_messages_exactly(api: Api, session: str) -> None:
    """A window is what a model is shown, and begins where a model can begin; `messages` gives what is stored."""
    call = {"name": "f", "args": {}, "id": "c", "type": "tool_call"}
    api.append(
        session, [*hai(0), HumanMessage("h1"), AIMessage("", tool_calls=[call]), ToolMessage("t", tool_call_id="c")]
    )
    for n in range(1, 6):
        newest = api.messages(session, limit=n, newest_first=True)
        assert [stored.position for stored in reversed(newest)] == list(range(6 - n, 6))


def test_the_history_and_the_runnable_take_a_window(store: HistoryStore, session: str) -> None:
    from langchain_core.runnables import RunnableLambda

    from langchain_supabase_history import SupabaseChatMessageHistory

    for n in range(5):
        store.append(session, hai(n))
    window = Window(messages=2)
    assert texts(SupabaseChatMessageHistory(session, store, window=window).messages) == ["h4", "a4"]
    assert texts(store.with_window(window).get_session_history(session).messages) == ["h4", "a4"]
    shown: list[list[str]] = []

    def model(messages: list[BaseMessage]) -> AIMessage:
        shown.append(texts(messages))
        return AIMessage("a5")

    for chain in (
        store.with_history(RunnableLambda(model), window=window),
        store.with_window(window).with_history(RunnableLambda(model)),
    ):
        chain.invoke("h5", {"configurable": {"session_id": session}})
    assert shown == [["h4", "a4", "h5"], ["h5", "a5", "h5"]]
    assert len(store.load(session)) == 14  # a window shows less; nothing is lost


@pytest.mark.parametrize("field", ["messages", "turns", "tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "7", True, 2**31])
def test_bad_windows_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidSession, match=field):
        Window(**{field: value})


def test_what_is_no_window_is_refused(api: Api, session: str) -> None:
    for wrong in (5, {"messages": 5}):
        with pytest.raises(InvalidSession, match="must be a Window"):
            api.load(session, wrong)
        with pytest.raises(InvalidSession, match="must be a Window"):
            api.with_window(wrong)
    with pytest.raises(InvalidSession, match="keep_system"):
        Window(keep_system=None)  # type: ignore[arg-type]


def test_a_process_can_keep_what_it_has_read(database: str) -> None:
    """`after_position` and `known_revision` bring the messages since, or all of them where the revision moved."""
    load = "select type, data->>'content' from chat_history_load_rows('s', after_position => %s, known_revision => %s)"
    with HistoryStore.from_postgres(database) as store, psycopg.connect(database, autocommit=True) as conn:
        store.append("s", hai(0))
        store.append("s", hai(1))
        assert conn.execute(load, [2, 0]).fetchall()[1:] == [("human", "h1"), ("ai", "a1")]
        assert conn.execute(load, [4, 0]).fetchall()[1:] == []
        store.clear("s")
        store.append("s", hai(2))
        assert conn.execute(load, [4, 0]).fetchall()[1:] == [("human", "h2"), ("ai", "a2")]
        header = conn.execute("select chat_history_load('s')->'header'").fetchone()
        assert header is not None
        assert header[0] == {"epoch": 1, "revision": 1, "last_position": 6}


def test_a_question_and_the_system_message_stay_within_the_budget_together(
    counting: HistoryStore, session: str
) -> None:
    call = {"name": "f", "args": {}, "id": "c", "type": "tool_call"}
    unanswered = AIMessage("", tool_calls=[call])
    turns = [("completed", [SystemMessage("s#20"), HumanMessage("h#20"), unanswered])]
    store = counting
    rows = store_conversation(store, session, turns)
    for tokens, wanted in ((30, ["h#20"]), (40, ["s#20", "h#20"]), (41, ["s#20", "h#20"]), (20, ["h#20"]), (19, [])):
        got = store.load(session, Window(tokens=tokens))
        assert texts(got) == wanted, tokens
        check_window(Window(tokens=tokens), rows, got)
