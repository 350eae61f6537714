"""The SQL functions called as another language would: with anything that their types take.

A call is answered, or refused with a code that `errors.py` explains: never with one that only our own statements could
have caused (a null in a column, an index entry that is too large, an internal error).
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from langchain_supabase_history.errors import HistoryError, from_code

from .. import servers
from ..matrix import Function, functions

ALLOWED = re.compile(r"PT4\d\d|42501|22\d\d\d|22P0\d|23505")  # 23505: an id twice in one call
SESSIONS = ["s", "other"]
UUIDS = [str(uuid.UUID(int=n)) for n in range(4)]

plain_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
odd_text = plain_text | st.sampled_from(
    ["", " ", "'", "\\", "x" * 1000, "x" * 1001, "x" * 5000, "漢" * 1000, "😀" * 900, "NaN", "Infinity", "human", "ai"]
)
ids = st.sampled_from(UUIDS)
numbers = st.integers(-(2**40), 2**40) | st.sampled_from(
    [-1, 0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 1e300, -0.5, "NaN", "Infinity", "-Infinity", "1e400000"]
)
times = st.sampled_from(
    [
        "2026-01-01T00:00:00Z",
        "infinity",
        "-infinity",
        "0001-01-01",
        "9999-12-31",
        "20000-01-01",
        "4713-01-01 BC",
        "soon",
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | odd_text | times | ids,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3),
    max_leaves=6,
)
message = st.fixed_dictionaries(
    {},
    optional={
        "id": ids | anything,
        "type": st.sampled_from(["human", "ai", "tool", ""]) | odd_text,
        "data": st.just({}) | anything,
        "tokens": numbers | anything,
    },
)
fields = st.fixed_dictionaries(
    {"id": ids},
    optional={
        "status": st.sampled_from(["running", "failed", "completed", "interrupted"]) | odd_text,
        "asked": st.booleans() | anything,
        "question": st.lists(message, max_size=2) | anything,
        "trace_id": odd_text,
        "run_id": odd_text,
        "project": odd_text,
        "started_at": times,
        "ended_at": times,
        "input_tokens": numbers,
        "total_tokens": numbers,
        "total_cost": numbers,
        "documents": anything,
        "metadata": anything,
        "ordinal": numbers,
        "session_key": ids,
        "turn_id": ids,
        "message_id": ids,
        "session_id": st.sampled_from(SESSIONS) | odd_text,
        "user_id": odd_text,
        "key": st.just("k") | odd_text,
        "score": numbers,
        "value": anything,
        "comment": odd_text,
        "created_at": times,
        "updated_at": times,
        "sent_at": times,
        "refused": st.booleans() | anything,
    },
)
objects = fields | anything
json_text = (
    (objects | st.lists(objects, max_size=3)).map(json.dumps)
    | st.sampled_from(
        ['{"id": "\\u0000"}', '{"a": "\\ud800"}', '{"a": 1e400000}', '"{}"', '"null"', "null", "[[]]", "7"]
    )
    | st.just("{not json")
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "text": odd_text,
    "text[]": st.lists(st.none() | odd_text, max_size=3),
    "uuid": ids,
    "uuid[]": st.lists(st.none() | ids, max_size=3),
    "json": json_text,
    "json[]": st.lists(st.none() | json_text | st.just("{}"), max_size=3),
    "integer": st.integers(-2, 3) | st.sampled_from([2**31 - 1, -(2**31)]),
    "integer[]": st.lists(st.none() | st.integers(-2, 50), max_size=3),
    "bigint": st.integers(-2, 5) | st.sampled_from([2**63 - 1, -(2**63)]),
    "boolean": st.booleans(),
    "double precision": st.sampled_from([0.0, 1.0, -1.0, 1e300, math.nan, math.inf, -math.inf]),
    "timestamp with time zone": times,
    "interval": st.sampled_from(["1 day", "-1 day", "0", "300000 years", "1 microsecond", "178000000 years"]),
}
# Calls that come near to being right, so that what lies behind the first check is reached too.
RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "session_id": st.sampled_from(SESSIONS),
    "user_id": st.sampled_from(["", "ada"]),
    "ids": st.lists(ids, min_size=1, max_size=2),
    "types": st.lists(st.sampled_from(["human", "ai", "tool"]), min_size=1, max_size=2),
    "data": st.lists(st.sampled_from(["{}", '{"a": 1}', '{ "a": 1.0 }', '{"a": "\\u0000"}']), min_size=1, max_size=2),
    "turn": fields.map(json.dumps),
    "feedback": (fields | st.lists(fields, max_size=2)).map(json.dumps),
    "costs": st.lists(fields, max_size=2).map(json.dumps),
    "group_by": st.lists(st.sampled_from(["session", "user", "model", "day"]), max_size=2),
}


def arguments(function: Function) -> st.SearchStrategy[dict[str, Any]]:
    def one(name: str, kind: str) -> st.SearchStrategy[Any]:
        return st.none() | BY_TYPE[kind] | RIGHT.get(name, BY_TYPE[kind]) | RIGHT.get(name, BY_TYPE[kind])

    return st.fixed_dictionaries({name: one(name, kind) for name, kind in function.arguments})


def call(conn: psycopg.Connection[Any], function: Function, args: dict[str, Any], role: str | None) -> str | None:
    """The code that the call is refused with; null where it is answered."""
    kinds = dict(function.arguments)
    marks = ", ".join(f"{name} => %s::text{'[]' if kinds[name].endswith('[]') else ''}::{kinds[name]}" for name in args)
    params = [value if value is None or isinstance(value, (str, list)) else str(value) for value in args.values()]
    params = [[str(v) if isinstance(v, int) else v for v in p] if isinstance(p, list) else p for p in params]
    try:
        with conn.transaction():
            if role:
                conn.execute("select set_config('request.jwt.claims', '{\"sub\": \"ada\"}', true)")
                conn.execute(f"set local role {role}".encode())
            conn.execute(f"select * from {function.name}({marks})".encode(), params).fetchall()
    except psycopg.Error as error:
        return error.sqlstate or str(error)
    return None


@pytest.fixture(scope="module")
def conn(pg: servers.Postgres) -> Iterator[psycopg.Connection[Any]]:
    url = pg.url(pg.create_database("template_history"))
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("set statement_timeout = '20s'")
        yield conn


@pytest.fixture(scope="module")
def callable_functions(conn: psycopg.Connection[Any]) -> list[Function]:
    found = [f for f in functions(conn) if all(name for name, _ in f.arguments) and f.name != "chat_history_grant"]
    assert len(found) > 20
    return found


@pytest.mark.parametrize("role", [None, "authenticated"])
def test_any_call_is_answered_or_refused_with_an_explained_code(
    conn: psycopg.Connection[Any], callable_functions: list[Function], role: str | None
) -> None:
    known = [f for f in callable_functions if all(kind in BY_TYPE for _, kind in f.arguments)]
    assert len(known) > 20

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.sampled_from(known).flatmap(lambda f: st.tuples(st.just(f), arguments(f))))
    def run(made: tuple[Function, dict[str, Any]]) -> None:
        code = call(conn, made[0], made[1], role)
        assert code is None or ALLOWED.fullmatch(code), code
        assert code is None or type(from_code(code)) is not HistoryError, code

    run()


QUESTION = {"id": UUIDS[0], "type": "human", "data": {}}
BEGIN = "chat_history_begin('q', json_build_object('id', gen_random_uuid(), 'question', %s::json))"
APPEND = "chat_history_append('a', array[gen_random_uuid()], array[%s::text], array[%s]::json[], array[%s]::integer[])"
LONG = "漢" * 1000

QUESTIONS: list[Any] = [
    [{"type": "human", "data": {}}],
    [{}],
    [1, "x"],
    [{**QUESTION, "id": "x"}],
    [{**QUESTION, "type": ""}],
    [{**QUESTION, "type": "x" * 200}],
    [{**QUESTION, "data": "text"}],
    [{**QUESTION, "tokens": -1}],
    [{**QUESTION, "tokens": 1.5}],
    [QUESTION, QUESTION],
    {"a": 1},
    None,
]
REFUSED: list[tuple[str, list[Any], str]] = [
    *[
        (BEGIN, [json.dumps(question)], "PT422")
        for question in QUESTIONS
    ],
    (APPEND, ["x" * 3440, "{}", 1], "PT422"),
    (APPEND, ["", "{}", 1], "PT422"),
    (APPEND, [None, "{}", 1], "PT422"),
    (APPEND, ["human", "[1]", 1], "PT422"),
    (APPEND, ["human", None, 1], "PT422"),
    (APPEND, ["human", "{}", -1], "PT422"),
    ("chat_history_append('', array[gen_random_uuid()], '{human}', '{\"{}\"}')", [], "PT400"),
    ("chat_history_append(null, array[gen_random_uuid()], '{human}', '{\"{}\"}')", [], "PT400"),
    ("chat_history_append(%s, array[gen_random_uuid()], '{human}', '{\"{}\"}')", ["x" * 1001], "PT400"),
    ("chat_history_append('s', array[gen_random_uuid()], '{human}', '{\"{}\"}', user_id => %s)", [LONG], "PT400"),
    ("chat_history_append('s', '{{%s,%s}}', '{human,ai}', '{\"{}\",\"{}\"}')", [], "PT422"),
    ("chat_history_append('s', turn => '{\"id\": \"00000000-0000-0000-0000-000000000001\", \"status\": \"odd\"}')",
     [], "PT422"),
    ("chat_history_append('s', turn => '[1]')", [], "PT422"),
    ("chat_history_interrupt_turns('s', 'NaN')", [], "PT400"),
    ("chat_history_interrupt_turns('s', 'Infinity')", [], "PT400"),
    ("chat_history_interrupt_turns('s', -1)", [], "PT400"),
    ("chat_history_prune(idle_for => '300000 years')", [], "PT400"),
    ("chat_history_prune(idle_for => '-1 day')", [], "PT400"),
    *[(f"chat_history_list_{what}('s', max_items => -1)", [], "PT400") for what in ("messages", "turns", "feedback")],
    ("chat_history_uncosted_turns(max_items => 0)", [], "PT400"),
    ("chat_history_delete_session('s', batch => 0)", [], "PT400"),
    ("chat_history_set_costs('{\"a\": 1}')", [], "PT422"),
    ("chat_history_set_costs('[1]')", [], "PT422"),
    ("chat_history_set_costs('[{\"session_id\": \"s\", \"total_cost\": \"NaN\"}]')", [], "PT422"),
    ("chat_history_feedback_sent('{}')", [], "PT422"),
    ("chat_history_add_feedback('s', '[]')", [], "PT422"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "params", "code"), REFUSED)
def test_what_could_never_be_stored_is_refused_at_once(
    conn: psycopg.Connection[Any], query: str, params: list[Any], code: str
) -> None:
    if not params:
        query = query.replace("{{%s,%s}}", "{{" + ",".join(UUIDS[:2]) + "}}")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(f"select {query}".encode(), params or None)
    assert caught.value.sqlstate == code


@pytest.mark.parametrize("data", ['{"content": "a\\u0000"}', '{"content": 1e400000}'])
def test_a_replay_whose_text_differs_and_jsonb_cannot_hold_is_a_conflict(
    conn: psycopg.Connection[Any], data: str
) -> None:
    append = "select chat_history_append('replayed', %s, '{human}', %s, replay => true)"
    ids = [uuid.uuid4()]
    first = conn.execute(append.encode(), [ids, [data]]).fetchone()
    again = conn.execute(append.encode(), [ids, [data]]).fetchone()
    assert first is not None
    assert again is not None
    assert again[0]["known"][0]["position"] == first[0]["last_position"]
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(append.encode(), [ids, [data.replace(" ", "  ")]])
    assert caught.value.sqlstate == "PT409"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [('{"a": 1, "b": 2}', '{"b":2,"a":1}', True), ('{"a": 1}', '{"a": 1.0}', False), ('{"a": 1}', '{"a": 2}', False)],
)
def test_a_known_id_is_the_same_message_in_any_order_of_keys_only(
    conn: psycopg.Connection[Any], first: str, second: str, same: bool
) -> None:
    append = "select chat_history_append('known', %s, '{human}', %s)"
    ids = [uuid.uuid4()]
    conn.execute(append.encode(), [ids, [first]])
    again: Callable[[], object] = lambda: conn.execute(append.encode(), [ids, [second]])  # noqa: E731
    if same:
        again()
    else:
        with pytest.raises(psycopg.Error, match="other content"):
            again()
