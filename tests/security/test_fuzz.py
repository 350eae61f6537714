"""Bad input: whatever is given, the answer is an error of ours, nothing is written, and no secret is told."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import logging
import math
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_supabase_history import (
    HistoryError,
    HistoryStore,
    InvalidInput,
    InvalidMessage,
    InvalidSession,
    NotFound,
    SupabaseChatMessageHistory,
    Turn,
    Window,
)
from langchain_supabase_history.core.identity import Identity
from langchain_supabase_history.core.messages import MAX_MESSAGE_BYTES
from tests import servers

EXAMPLES = 500


# --- what is bad, by what is asked for


class Hostile:
    """Everything that is asked of it raises, its own description too."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("hostile")

    def __iter__(self) -> Any:
        raise RuntimeError("hostile")

    def __len__(self) -> int:
        raise RuntimeError("hostile")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("hostile")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("hostile")

    __str__ = __repr__


RECURSIVE: dict[str, Any] = {}
RECURSIVE["self"] = [RECURSIVE]
DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
NOT_TEXT = ["", "\x00", "nul\x00inside", "\ud800", "a\udfff"]
TOO_LONG = ["x" * 1001, "ü" * 1001, "x" * 2**20, "line\n" * 10_000]
NO_STR = [
    None,
    0,
    7,
    1.5,
    True,
    b"bytes",
    [],
    ["a"],
    {},
    {"a": 1},
    object(),
    Hostile(),
    str,
    uuid.UUID(int=7),
    RECURSIVE,
]
NO_INT = [
    "",
    "1",
    "1; drop table x",
    1.5,
    math.nan,
    math.inf,
    True,
    False,
    b"1",
    [1],
    {},
    object(),
    Hostile(),
    -1,
    -(2**63),
    2**63,
    2**100,
]
TURN: Any = Turn  # whose fields no type checker looks at
BAD_TURNS = [
    TURN(id="no uuid"),
    TURN(id=None),
    TURN(uuid.uuid4(), status="done"),
    TURN(uuid.uuid4(), status=None),
    TURN(uuid.uuid4(), status=[]),
    TURN(uuid.uuid4(), model=7),
    TURN(uuid.uuid4(), project=b"x"),
    TURN(uuid.uuid4(), error=object()),
    TURN(uuid.uuid4(), started_at="yesterday"),
    TURN(uuid.uuid4(), ended_at=datetime(2026, 1, 1)),
    TURN(uuid.uuid4(), input_tokens=-1),
    TURN(uuid.uuid4(), total_tokens=1.5),
    TURN(uuid.uuid4(), output_tokens=2**63),
    TURN(uuid.uuid4(), total_cost="1"),
    TURN(uuid.uuid4(), total_cost=math.nan),
    TURN(uuid.uuid4(), total_cost=-1.0),
    TURN(uuid.uuid4(), metadata={"a": object()}),
    TURN(uuid.uuid4(), metadata=RECURSIVE),
    TURN(uuid.uuid4(), documents=[Hostile()]),
    TURN(uuid.uuid4(), token_details={"a": [DEEP]}),
]
BAD_MESSAGES = [
    "text",
    b"bytes",
    7,
    object(),
    Hostile(),
    None,
    {"type": "human"},
    HumanMessage,
    [7],
    [None],
    ["text"],
    [Hostile()],
    [HumanMessage("ok"), object()],
    iter([HumanMessage("x")]),
    {HumanMessage: 1},
    [HumanMessage("x", additional_kwargs={"a": {"b": [object()]}})],
    [HumanMessage("x", additional_kwargs=RECURSIVE)],
    [HumanMessage("x", response_metadata={"a": Hostile()})],
    [AIMessage("x", additional_kwargs={"deep": DEEP})],
    [HumanMessage("x", additional_kwargs={"f": lambda: 1})],
    [HumanMessage("x" * 2**24)],
    [HumanMessage("x", id="i", name="n", extra=object())],
]
JUNK = [
    None,
    "",
    "x",
    "\x00",
    "\ud800",
    0,
    -1,
    7,
    2**100,
    1.5,
    math.nan,
    True,
    b"x",
    [],
    [object()],
    {},
    {"a": object()},
    object(),
    Hostile(),
    RECURSIVE,
    DEEP,
    print,
    type,
]

NO_FILES = ["", "\x00", "\ud800", 7, 1.5, b"x", [], {}, object(), Hostile(), str]

BAD_BY_NAME: dict[str, list[Any]] = {
    "access_token": ["", "x", "a.b", "a.b.c.d", "ü.b.c", "a .b.c", "\x00.b.c", 7, b"a.b.c", [], object(), Hostile()],
    "claims": [{}, {"sub": ""}, {"sub": None}, {"sub": 7}, {"a": object()}, 7, "x", [], object(), Hostile()],
    "cursor": ["", "x", "-1", "1.5", "1; drop table x", "9" * 40, "١", 1, 1.5, b"1", [], object(), Hostile(), True],
    "group_by": ["hour", ["hour"], [7], [None], ["session", "x\x00"], 7, object(), Hostile(), [["session"]], {"x": 1}],
    "ids": [["no uuid"], [7], "text", 7, [uuid.uuid4()] * 9, object(), Hostile(), [None], {"a": 1}],
    "conninfo": [
        "",
        "x",
        "postgresql://u:p@[",
        "host=x port=y",
        "a=b",
        "\x00",
        "\ud800",
        7,
        None,
        b"host=x",
        Hostile(),
        "postgresql://h:99999999999/x",
        "host='",
        "x" * 2**20,
    ],
    "url": ["", "x", "ftp://x", "supabase.co", "\x00", 7, None, b"https://x", Hostile(), "\ud800"],
    "key": ["", " ", "a b", "ü", "a\n", *NO_STR, "x" * 2**20, "\x00"],
    "jwt_secret": ["", "short", 7, b"x" * 32, [], object(), Hostile()],
    "jwks_url": [
        "",
        "x",
        "ftp://x",
        7,
        b"https://x",
        [],
        object(),
        Hostile(),
        "https://",
        "\x00",
        "file:///etc/passwd",
    ],
    "schema": [
        "",
        'a"b',
        "x; drop schema public",
        "a.b",
        "é",
        "x" * 64,
        "1a",
        None,
        7,
        b"public",
        [],
        Hostile(),
        "\x00",
    ],
    "path": ["\x00", 7, b"x", object(), Hostile(), "/dev/null/x", [], 1.5],
    "client": ["x", 7, object(), [], {}, Hostile(), type],
    "epoch": NO_INT,
    "limit": [0, 1001, *NO_INT],
    "documents": [1001, *NO_INT],
    "time_zone": ["", "Mars/Olympus", "UTC; drop table x", "\x00", "x" * 101, 7, None, b"UTC", [], object(), Hostile()],
    "batch": [0, 10_001, *NO_INT],
    "keep_messages": [0, *NO_INT],
    "pool_size": [0, *NO_INT],
    "max_message_bytes": [0, *NO_INT],
    "deadline": [0, -1, math.nan, math.inf, "10", True, 2**40, [], object(), Hostile()],
    "older_than": [-1.0, math.nan, math.inf, "1", [], object(), Hostile(), None],
    "runnable": [None, 7, "x", b"x", [], object(), math.nan],
    "value": [object(), RECURSIVE, {"a": object()}, [1], b"x", {"a": DEEP}, Hostile(), {1}],
    "comment": ["", "x" * 10_001, "\x00", "\ud800", 7, b"x", [], object(), Hostile()],
    "title": ["", "x" * 1001, "\x00", "\ud800", 7, b"x", [], object(), Hostile()],
    "tags": ["text", [""], ["\x00"], [7], [None], ["x"] * 101, ["x" * 201], 7, b"x", {1}, object(), Hostile()],
    "metadata": ["text", 7, [], {1: 2}, {"\x00": 1}, {"$type": 1}, {"a": object()}, {"a": DEEP}, RECURSIVE, Hostile()],
    "prefix": [*NOT_TEXT[1:], *TOO_LONG, *[bad for bad in NO_STR if bad is not None]],
    "before": [0, -1, 2**63, True, 1.5, "1", None, b"1", [], {}, object(), Hostile(), HumanMessage("x")],
    "upto": [0, -1, 2**63, True, 1.5, "1", b"1", [], {}, object(), Hostile(), HumanMessage("x")],
    "n": [0, 1001, *NO_INT],
    "alternative": ["", "x", "\x00", 7, None, b"x", [], {}, object(), Hostile()],
    "expires": [
        7,
        "1 day",
        datetime(2026, 1, 1),
        datetime(2020, 1, 1, tzinfo=UTC),
        timedelta(0),
        timedelta.max,
        Hostile(),
    ],
    "token": [*NOT_TEXT, *TOO_LONG, *NO_STR],
    "types": ["human", [], [""], ["\x00"], [7], [None], ["x" * 101], 7, {"human": 1}, object(), Hostile()],
    "order": ["", "newest", "activity ", "title; drop table x", 7, None, b"title", ["title"], object(), Hostile()],
    "target": [*NO_FILES, ".", "/", "no such folder/file", "/dev/null/x"],
    "source": [*NO_FILES, ".", "no such file", "/dev/null/x"],
    "table": [*NOT_TEXT, *TOO_LONG, 7, b"x", [], object(), Hostile()],
    "history": [None, "x", 7, [], [HumanMessage("x")], {}, object(), Hostile(), SupabaseChatMessageHistory],
    "format": ["", "xml", "JSONL", 7, None, b"csv", ["csv"], object(), Hostile()],
    "session_ids": ["text", [""], ["\x00"], [7], [None], 7, object(), Hostile(), ["x" * 1001]],
    "rows": ["", "pages", 7, None, ["messages"], object(), Hostile()],
    "tools": ["text", 7, {"a": 1}, [7], object(), Hostile()],
    "feedback_key": [*NOT_TEXT, 7, b"x", [], object(), Hostile()],
    "spreadsheet": [*NOT_TEXT, *TOO_LONG[2:], *NO_STR, "https://example.com/", "http://docs.google.com/document/d/x"],
    "credentials": [
        "",
        "x",
        "{",
        "[]",
        '{"type": 7}',
        "\x00",
        "\ud800",
        7,
        b"{}",
        [],
        {},
        {"a": 1},
        object(),
        Hostile(),
    ],
    "worksheets": ["messages", [], ["rows"], [7], {}, {"messages": ""}, {"messages": 7}, 7, None, object(), Hostile()],
    "share_with": ["", "x", "@", "a@b\n", ["x"], [7], [None], 7, None, {"a@b.c": 1}, object(), Hostile()],
    "progress": [7, "x", [], {}],
    "turn_id": ["", "x", "\x00", 7, b"x", [], {}, object(), Hostile()],
    "bot": [None, 7, "x", [], object(), Hostile()],
    "interval": [0, -1, 1e9, math.nan, math.inf, "1", [], object(), Hostile()],
    "score": ["1", math.nan, math.inf, -math.inf, [], object(), Hostile(), b"1"],
}
BAD_BY_NAME |= {"async_client": BAD_BY_NAME["client"], "on_error": [7, "x", [], {}], "count_tokens": [7, "x", [], {}]}
BAD_BY_TYPE: dict[str, list[Any]] = {
    "str": [*NOT_TEXT, *TOO_LONG, *NO_STR],
    "int": NO_INT,
    "float": BAD_BY_NAME["score"],
    "bool": [0, 1, "yes", "", None, 1.5, [], object(), Hostile()],
    "datetime": ["2026-01-01", 7, 1.5, datetime(2026, 1, 1), [], object(), Hostile()],
    "timedelta": [90, "90 days", timedelta(0), timedelta(-1), timedelta.max, [], object(), Hostile()],
    "Window": ["x", 7, {}, [], object(), Hostile(), {"messages": 1}],
    "Turn": [*BAD_TURNS, "x", 7, {}, [], object(), Hostile()],
    "StoredMessage": ["x", 7, {}, [], None, object(), Hostile(), HumanMessage("x")],
    "Sequence[BaseMessage]": BAD_MESSAGES,
    "BaseMessage": [m for m in BAD_MESSAGES if not isinstance(m, HumanMessage)],
    "HumanMessage": [7, 1.5, object(), None],  # not bytes: LangChain reads them as text
    "AIMessage": [7, 1.5, object(), None],
    "Callable": [7, "x", [], {}, b"x"],
    "Runnable": BAD_BY_NAME["runnable"],
}


def bad_for(name: str, annotation: str) -> list[Any]:
    if name in BAD_BY_NAME:
        return BAD_BY_NAME[name]
    kinds = [kind.strip() for kind in annotation.replace(" | None", "").split(" | ")]
    found = [BAD_BY_TYPE.get(kind) or BAD_BY_TYPE.get(kind.split("[")[0].split(".")[-1]) for kind in kinds]
    first = found[0]
    pool: list[Any] = JUNK if first is None or (len(found) > 1 and not all(found)) else first
    return [bad for bad in pool if bad is not None] if "None" in annotation else pool


OPTIONS = ["schema", "deadline", "pool_size", "on_error", "max_message_bytes", "count_tokens", "jwt_secret", "jwks_url"]


# What carries out plans: for those who add operations, not for applications.
PLUMBING = {"execute", "aexecute", "run", "arun", "within"}


def options_of(method: Callable[..., Any], annotation: str) -> list[tuple[str, str]]:
    """The options of an `Unpack[...]`: their names and types."""
    if not annotation.startswith("Unpack[") or "Connecting" in method.__qualname__:
        return []
    options = vars(sys.modules[method.__module__])[annotation.removeprefix("Unpack[").removesuffix("]")]
    return [(name, reference.__forward_arg__) for name, reference in options.__annotations__.items()]


def arguments(method: Callable[..., Any], draw: Callable[[Any], Any]) -> tuple[list[Any], dict[str, Any]]:
    """Bad values for all that a method must be given, and for some, at least one, of what it may be given."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    optional: list[tuple[str, str]] = []
    for parameter in inspect.signature(method).parameters.values():
        name, annotation = parameter.name, str(parameter.annotation)
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            kwargs[name] = draw(st.sampled_from(bad_for(name, annotation)))
        elif parameter.kind is parameter.VAR_KEYWORD and options_of(method, annotation):
            optional += options_of(method, annotation)
        elif parameter.kind is parameter.VAR_KEYWORD:
            chosen = draw(st.sampled_from(OPTIONS[:6]))
            kwargs[chosen] = draw(st.sampled_from(BAD_BY_NAME[chosen]))
        elif parameter.default is parameter.empty or name == "path":
            args.append(draw(st.sampled_from(bad_for(name, annotation))))
        else:
            optional.append((name, annotation))
    if optional:
        some = draw(st.lists(st.sampled_from(optional), min_size=0 if args else 1, max_size=3, unique=True))
        kwargs |= {name: draw(st.sampled_from(bad_for(name, annotation))) for name, annotation in some}
    return args, kwargs


def public(cls: type) -> list[str]:
    found = [name for name, member in inspect.getmembers(cls) if not name.startswith("_") and callable(member)]
    return [name for name in found if name not in PLUMBING]


@pytest.fixture(scope="module", autouse=True)
def no_langsmith() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGSMITH_ENDPOINT", f"http://127.0.0.1:{servers.free_port()}")
        for name in ("SUPABASE_DB_URL", "SUPABASE_URL", "SUPABASE_KEY", "GOOGLE_SHEETS_CREDENTIALS"):
            patch.delenv(name, raising=False)
        yield


def all_rows(conninfo: str) -> list[Any]:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        names = conn.execute(
            "select relname from pg_class where relname like 'chat\\_history\\_%' and relkind in ('r', 'p') order by 1"
        ).fetchall()
        assert len(names) >= 5
        return [
            conn.execute(f"select '{name}', count(*), max(xmin::text::bigint) from {name}".encode()).fetchone()
            for (name,) in names
        ]


def check_method(method: Callable[..., Any], make: Callable[[], Any] | None, conninfo: str, examples: int) -> None:
    """So many bad inputs to a method; `make` makes the object it is called on, where each needs a new one."""
    before, refused = all_rows(conninfo), list[str]()
    # What LangChain makes of an argument before it calls us is LangChain's.
    theirs = (pydantic.ValidationError,) if method.__module__.startswith("langchain_core") else ()
    with asyncio.Runner() as runner:

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def run(data: st.DataObject) -> None:
            args, kwargs = arguments(method, data.draw)
            call = getattr(make(), method.__name__) if make else method
            try:
                result = call(*args, **kwargs)
                if inspect.isawaitable(result):

                    async def wait() -> Any:
                        return await result

                    result = runner.run(wait())
                if inspect.isgenerator(result):
                    next(result, None)
                if inspect.isasyncgen(result):
                    runner.run(anext(result))
            except (HistoryError, *theirs) as error:
                refused.append(f"{error}{''.join(traceback.format_exception_only(error))}")
            else:  # it was left out, or made no difference: a turn without a trace has no address
                assert not args or result is None, f"{method.__qualname__} took {args!r:.200}"

        run()
    assert all_rows(conninfo) == before
    assert max(map(len, refused), default=0) < 4000
    assert refused or not inspect.signature(method).parameters


@pytest.mark.parametrize("name", public(HistoryStore))
def test_the_store_refuses_bad_input(shared_database: str, data_api: servers.Lite, name: str) -> None:
    over_sql = HistoryStore.from_postgres(shared_database)
    over_api = HistoryStore.from_supabase(data_api.url, servers.SECRET_KEY)
    with over_sql, over_api:
        check_method(getattr(over_sql, name), None, shared_database, EXAMPLES)
        check_method(getattr(over_api, name), None, shared_database, EXAMPLES // 10)


@pytest.mark.parametrize("name", public(SupabaseChatMessageHistory))
def test_the_history_refuses_bad_input(postgres_store: HistoryStore, shared_database: str, name: str) -> None:
    if inspect.signature(getattr(SupabaseChatMessageHistory, name)).parameters.keys() == {"self"}:
        history = SupabaseChatMessageHistory("never written", postgres_store)  # nothing may be given, so all is good
        result = getattr(history, name)()
        assert not (asyncio.run(result) if inspect.iscoroutine(result) else result)
        return
    history = SupabaseChatMessageHistory(f"never written {name}", postgres_store)
    check_method(getattr(history, name), lambda: history, shared_database, EXAMPLES)


def test_the_history_is_made_and_set_with_good_input_only(postgres_store: HistoryStore, shared_database: str) -> None:
    before = all_rows(shared_database)
    for bad in BAD_BY_TYPE["str"]:
        with pytest.raises(InvalidSession):
            SupabaseChatMessageHistory(bad, postgres_store)
        if bad is not None:
            with pytest.raises(InvalidSession):
                SupabaseChatMessageHistory("s", postgres_store, user_id=bad)
    for bad in BAD_BY_TYPE["Window"]:
        with pytest.raises(InvalidSession):
            SupabaseChatMessageHistory("s", postgres_store, window=bad)
    history: Any = SupabaseChatMessageHistory("s", postgres_store)
    for bad in BAD_MESSAGES:
        with pytest.raises(InvalidMessage):
            history.messages = bad
    limits: list[Any] = [0, -1, 2**31, 1.5, True, "1", b"1", object()]
    for bad in limits:
        for name in ("messages", "turns", "tokens"):
            with pytest.raises(InvalidSession):
                Window(**{name: bad})
    assert all_rows(shared_database) == before


def test_a_wrong_call_is_pythons_to_refuse(postgres_store: HistoryStore) -> None:
    for call in (
        lambda: postgres_store.load(),  # type: ignore[call-arg]
        lambda: postgres_store.load("s", nope=1),  # type: ignore[call-arg]
        lambda: HistoryStore.from_env(nope=1),  # type: ignore[call-arg]
    ):
        with pytest.raises((TypeError, HistoryError)):
            call()


@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit"]), st.sampled_from(["HS256", "none", "RS256", 7, [], None])
    )
    | st.binary(max_size=40),
    claims=st.dictionaries(
        st.sampled_from(["sub", "exp", "aud", "role"]), st.sampled_from(["u", "x", 2**40, -1, None, []])
    )
    | st.binary(max_size=40),
    signature=st.binary(max_size=40),
)
def test_nothing_made_up_is_taken_for_a_token(shared_database: str, header: Any, claims: Any, signature: bytes) -> None:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims, signature)]
    made_up = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    store = HistoryStore.from_postgres(
        shared_database, jwt_secret=servers.JWT_SECRET
    )  # no token gets as far as to open it
    with pytest.raises(HistoryError):
        store.as_user(made_up).load("s")


@pytest.mark.parametrize(
    "extra", [RECURSIVE, DEEP * 9, math.nan, {Hostile: 1}, {(1, 2): 3}, "\x00", "\ud800"], ids=range(7)
)
def test_claims_that_are_no_json_are_refused_or_only_text(postgres_store: HistoryStore, extra: Any) -> None:
    for claims in ({"sub": "u", "a": extra}, {"sub": f"u{extra}"[:50]} if isinstance(extra, str) else {}):
        try:
            assert postgres_store.as_user(claims=claims).load("s") == []
        except HistoryError as error:
            assert len(str(error)) < 500  # noqa: PT017


# --- input that looks bad and is good

ODD = [
    "a'; drop table chat_history_messages; --",
    "$body$ $migration$",
    '"; select 1; --',
    "%s %(a)s {0} {name}",
    "\\",
    "\\x00",
    "../../etc/passwd",
    "a b\tc\nd\r\ne",
    "ünïcödé 😀 👩\u200d👧 漢字 \u202e\u200b\ufeff",
    "a\u0301 á",
    "null",
    "None",
    "{}",
    "[]",
    '""',
    "<script>alert(1)</script>",
    "?select=*&x=eq.1",
    "x" * 1000,
    "😀" * 1000,
    " ",
    "'",
    "#",
    "%00",
    "a,b.c:d(e)",
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_text_is_only_text(store: HistoryStore, session: str, odd: str) -> None:
    owner = (session + odd)[:1000].encode()[:2500].decode(errors="ignore")
    user = store.for_user(owner)
    turn = Turn(
        uuid.uuid4(), model=odd, error=odd, trace_id=odd, project=odd, metadata={odd: odd}, documents=[{odd: odd}]
    )
    messages = [HumanMessage(odd, name=odd, additional_kwargs={odd: [odd]}), ToolMessage(odd, tool_call_id=odd)]
    first = user.append(odd, messages, turn=turn, idempotency_key=odd)
    assert user.append(odd, messages, turn=turn, idempotency_key=odd) == first
    assert [m.message for m in user.messages(odd)] == messages
    (found,) = user.turns(odd)
    assert (found.model, found.error, found.trace_id, found.metadata) == (odd, odd, odd, {odd: odd})
    assert found.documents == [{odd: odd}]
    assert user.session(odd).session_id == odd
    assert [u.session_id for u in user.usage(session_id=odd, group_by="session")] == [odd]
    with pytest.raises(NotFound):
        user.session(odd[:-1] + "?" if odd[-1] != "?" else "!")
    assert user.delete_user(owner).messages == 2


def test_a_megabyte_of_everything(store: HistoryStore, session: str) -> None:
    big = "line\n" * (2**20 // 5)
    turn = Turn(uuid.uuid4(), error=big, metadata={"big": big}, documents=[{"page": big}])
    store.append(
        session,
        [HumanMessage(big, additional_kwargs={"k": big}), AIMessage([{"type": "text", "text": big}])],
        turn=turn,
    )
    assert store.load(session)[0] == HumanMessage(big, additional_kwargs={"k": big})
    (found,) = store.turns(session)
    assert (found.error, found.metadata, found.documents) == (big, {"big": big}, [{"page": big}])
    store.delete_session(session)


def test_messages_at_and_beyond_the_bound(store: HistoryStore, session: str) -> None:
    room = MAX_MESSAGE_BYTES - len('{"content":""}')
    with pytest.raises(InvalidMessage, match="max_message_bytes"):
        store.append(session, [HumanMessage("x" * (room + 1))])
    with pytest.raises(NotFound):
        store.session(session)
    largest = HumanMessage("x" * room)
    store.append(session, [largest])
    assert store.load(session) == [largest]
    store.delete_session(session)


def test_ten_thousand_messages_in_one_append(store: HistoryStore, session: str) -> None:
    messages = [HumanMessage(f"q{n}") if n % 2 == 0 else AIMessage(f"a{n}") for n in range(10_000)]
    stored = store.append(session, messages)
    assert [m.position for m in stored] == list(range(1, 10_001))
    assert store.load(session) == messages
    assert [m.text for m in store.load(session, Window(messages=2))] == ["q9998", "a9999"]
    store.delete_session(session)


@pytest.mark.parametrize("bad", [RECURSIVE, DEEP, {"a": object()}, {"a": Hostile()}, {"a": lambda: 1}], ids=range(5))
def test_what_cannot_be_encoded_names_its_field(store: HistoryStore, session: str, bad: Any) -> None:
    field = {"a": bad} if isinstance(bad, list) else bad
    with pytest.raises(InvalidMessage, match=r"messages\[1\].*additional_kwargs"):
        store.append(session, [HumanMessage("ok"), AIMessage("x", additional_kwargs=field)])
    with pytest.raises(InvalidMessage, match=r"turn\.metadata"):
        store.append(session, [HumanMessage("ok")], turn=Turn(uuid.uuid4(), metadata=field))
    with pytest.raises(NotFound):
        store.session(session)


# --- secrets

PASSWORD, KEY = "hunter2-the-password", "sb_secret_planted-key"
LEGACY = f"planted-head.planted-{'x' * 20}.planted-tail"
TOKEN = "planted-header.planted-claims.planted-signature"
JWT_SECRET = "the planted secret that signs tokens"
SECRETS = [PASSWORD, KEY, LEGACY, TOKEN, JWT_SECRET, "planted-signature", "planted-tail"]


def told(error: BaseException | None) -> Iterator[str]:
    """Everything that an error, and what it came of, says of itself."""
    while error is not None:
        yield from (str(error), repr(error), repr(error.args), *getattr(error, "__notes__", ()))
        yield "".join(traceback.format_exception_only(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_no_secret_is_told(
    pg: servers.Postgres, data_api: servers.Lite, session: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    nowhere = servers.free_port()
    said: list[Any] = []
    conninfos = [
        f"postgresql://postgres:{PASSWORD}@127.0.0.1:{nowhere}/postgres",
        f"postgresql://nobody:{PASSWORD}@127.0.0.1:{pg.port}/postgres",
        f"postgresql://postgres:{PASSWORD}@127.0.0.1:{pg.port}/no_such_database",
        f"postgresql://postgres:{PASSWORD}@no-such-host.invalid/postgres?sslmode=disable",
        f"postgresql://postgres:{PASSWORD}@127.0.0.1:{pg.port}/postgres",  # nothing is installed there
        f"host=127.0.0.1 port={nowhere} user=postgres password={PASSWORD}",
        f"postgresql://postgres:{PASSWORD}@[broken",
        f"host=127.0.0.1 password={PASSWORD} nonsense",
        f"postgresql://u:{PASSWORD}@h:port/x",
    ]
    urls = [data_api.url, f"http://127.0.0.1:{nowhere}", "http://no-such-host.invalid", f"{data_api.url}/nowhere"]
    makers: list[Callable[[], HistoryStore]] = [
        *(lambda c=c: HistoryStore.from_postgres(c, jwt_secret=JWT_SECRET, deadline=0.15) for c in conninfos),
        *(lambda u=u, k=k: HistoryStore.from_supabase(u, k, deadline=0.15) for u in urls for k in (KEY, LEGACY)),
        lambda: HistoryStore.from_supabase(data_api.url, KEY + " with a space"),
        lambda: HistoryStore.from_supabase(KEY, KEY),
        lambda: HistoryStore.from_postgres(conninfos[0], jwt_secret=JWT_SECRET[:9]),
        lambda: HistoryStore.from_postgres(
            conninfos[0], jwks_url=f"http://u:{PASSWORD}@127.0.0.1:{nowhere}/", deadline=0.15
        ),
        lambda: HistoryStore.from_postgres(conninfos[0], schema=PASSWORD + ";"),
    ]
    operations: list[Callable[[HistoryStore], Any]] = [
        lambda s: s.load(session),
        lambda s: asyncio.run(s.aload(session)),
        lambda s: s.append(session, [HumanMessage("x")]),
        lambda s: s.as_user(TOKEN).load(session),
        lambda s: s.as_user(lambda: TOKEN).load(session),
        lambda s: s.as_user(TOKEN + ".more"),
        lambda s: s.as_user(claims={"sub": "", "token": TOKEN}),
        lambda s: s.get_session_history(session).add_messages([HumanMessage("x")]),
    ]
    failed = 0
    for make in makers:
        try:
            store = make()
        except HistoryError as error:
            failed += 1
            said += told(error)
            continue
        with store:
            said += [
                repr(store),
                str(store),
                repr(vars(store)),
                repr(store.for_user("u")),
                repr(store.driver),
                repr(store.as_user(TOKEN)),
                repr(store.get_session_history(session)),
                repr(vars(store.as_user(TOKEN))),
            ]
            for operation in operations:
                with pytest.raises(HistoryError) as caught:
                    operation(store)
                failed += 1
                said += told(caught.value)
    said += [repr(Identity(TOKEN)), str(Identity(TOKEN)), repr(Identity(None, {"sub": "u", "token": TOKEN}))]
    said += [f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records]
    assert failed > 60
    assert len(caplog.records) > 10
    leaks = {secret: text for secret in SECRETS for text in said if secret in text}
    assert leaks == {}


def test_errors_of_bad_input_say_what_is_wrong_and_not_more(postgres_store: HistoryStore) -> None:
    """A value that is refused is not repeated at length: it may be anything, a megabyte or a secret."""
    for bad in (PASSWORD * 50_000, [PASSWORD], {"a": PASSWORD}):
        for refuse in (
            lambda b=bad: postgres_store.load(b),
            lambda b=bad: postgres_store.for_user(b),
            lambda b=bad: postgres_store.messages("s", cursor=b),
            lambda b=bad: postgres_store.messages("s", limit=b),
            lambda b=bad: postgres_store.append("s", b),
            lambda b=bad: postgres_store.as_user(b),
            lambda b=bad: postgres_store.append("s", [HumanMessage("x")], ids=b),
            lambda b=bad: postgres_store.append("s", [HumanMessage("x")], idempotency_key=b),
            lambda b=bad: postgres_store.append("s", [], turn=Turn(uuid.uuid4(), status=b)),
            lambda b=bad: HistoryStore.from_postgres(b),
            lambda b=bad: HistoryStore.from_postgres("host=x", schema=b),
        ):
            with pytest.raises((InvalidInput, HistoryError)) as caught:
                refuse()
            assert PASSWORD not in str(caught.value)
