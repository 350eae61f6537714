"""The view `conversations`: an application that reads and writes such a table sees what the library does."""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import postgrest
import psycopg
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage, messages_to_dict
from psycopg.types.json import Jsonb
from supabase import Client, ClientOptions, create_client

from langchain_supabase_history import Conflict, HistoryStore, InvalidInput, InvalidSession, NotFound, Turn, migrate
from langchain_supabase_history.commands.main import main
from langchain_supabase_history.migrations import script
from tests import servers
from tests.conftest import missing, start

COLUMNS = [
    "id", "conversation_id", "user_id", "session_id", "timestamp", "messages", "tokens_history", "retriever_audits",
    "analytics", "metadata", "created_at",
]  # fmt: skip
TYPES = ["uuid", "text", "text", "text", "timestamptz", *["jsonb"] * 5, "timestamptz"]


def in_utc(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its times in one form: the servers write them in several."""
    times = {
        name: datetime.fromisoformat(row[name]).astimezone(UTC).isoformat() for name in ("timestamp", "created_at")
    }
    return {**row, **times}


class Application(Protocol):
    """The application's three calls, over the Data API by a plain client, or the same SQL over psycopg."""

    def save(self, row: dict[str, Any]) -> dict[str, Any]: ...

    def of_user(self, user_id: str) -> list[dict[str, Any]]: ...

    def one(self, conversation_id: str) -> dict[str, Any]: ...

    def update(self, conversation_id: str, changes: dict[str, Any]) -> None: ...

    def delete(self, conversation_id: str) -> None: ...


class OverApi(Application):
    def __init__(self, client: Client) -> None:
        self.client = client

    def table(self) -> Any:
        return self.client.table("conversations")

    def save(self, row: dict[str, Any]) -> dict[str, Any]:
        (saved,) = self.table().insert(row).execute().data
        return in_utc(saved)

    def of_user(self, user_id: str) -> list[dict[str, Any]]:
        found = self.table().select("*").eq("user_id", user_id).order("timestamp", desc=True).execute().data
        return [in_utc(row) for row in found]

    def one(self, conversation_id: str) -> dict[str, Any]:
        return in_utc(self.table().select("*").eq("conversation_id", conversation_id).single().execute().data)

    def update(self, conversation_id: str, changes: dict[str, Any]) -> None:
        self.table().update(changes).eq("conversation_id", conversation_id).execute()

    def delete(self, conversation_id: str) -> None:
        self.table().delete().eq("conversation_id", conversation_id).execute()


class OverSql(Application):
    """As a role with claims, as the Data API runs it; without a role as the tables' owner."""

    def __init__(self, conninfo: str, role: str | None = None, sub: str | None = None) -> None:
        self.conninfo, self.role, self.sub = conninfo, role, sub

    def run(self, query: str, *params: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.conninfo) as conn:
            if self.role:
                claims = json.dumps({"role": self.role} | ({"sub": self.sub} if self.sub else {}))
                conn.execute("select set_config('request.jwt.claims', %s, true)", [claims])
                conn.execute(f"set local role {self.role}".encode())
            cursor = conn.execute(query.encode(), params)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def save(self, row: dict[str, Any]) -> dict[str, Any]:
        values = [Jsonb(v) if isinstance(v, (list, dict)) else v for v in row.values()]
        marks = ", ".join(["%s"] * len(row))
        query = f"insert into conversations as c ({', '.join(row)}) values ({marks}) returning to_json(c)"
        return in_utc(self.run(query, *values)[0])

    def of_user(self, user_id: str) -> list[dict[str, Any]]:
        return self.run('select to_json(c) from conversations c where user_id = %s order by "timestamp" desc', user_id)

    def one(self, conversation_id: str) -> dict[str, Any]:
        (row,) = self.run("select to_json(c) from conversations c where conversation_id = %s", conversation_id)
        return in_utc(row)

    def update(self, conversation_id: str, changes: dict[str, Any]) -> None:
        values = [Jsonb(v) if isinstance(v, (list, dict)) else v for v in changes.values()]
        sets = ", ".join(f"{name} = %s" for name in changes)
        self.run(f"update conversations set {sets} where conversation_id = %s", *values, conversation_id)

    def delete(self, conversation_id: str) -> None:
        self.run("delete from conversations where conversation_id = %s", conversation_id)


REFUSED = (postgrest.exceptions.APIError, psycopg.Error)


def code(error: BaseException) -> str | None:
    return error.sqlstate if isinstance(error, psycopg.Error) else getattr(error, "code", None)


class Place(NamedTuple):
    conninfo: str
    api: servers.Lite
    users: list[tuple[str, str]]


@pytest.fixture(scope="module")
def place(pg: servers.Postgres) -> Iterator[Place]:
    """A database with the view, and the Data API in front of it."""
    if not servers.LITE_CLI.exists():
        missing("@supabase/lite", servers.LITE_INSTALL)
    conninfo = pg.url(pg.create_database("template_history"))
    migrate(conninfo, conversations="conversations")
    with servers.lite(conninfo) as api:
        yield Place(conninfo, api, [api.sign_up(f"{name}@example.com") for name in ("ada", "bob")])


def client(place: Place, key: str, token: str | None = None) -> Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return create_client(place.api.url, key, ClientOptions(headers=headers))


def close(made: Client) -> None:
    made.postgrest.session.close()
    made.auth._http_client.close()


@pytest.fixture(params=["data-api", "psycopg"])
def application(request: pytest.FixtureRequest, place: Place) -> Iterator[Application]:
    """The application itself, with the secret key or as the tables' owner."""
    if request.param == "psycopg":
        yield OverSql(place.conninfo)
    else:
        made = client(place, servers.SECRET_KEY)
        yield OverApi(made)
        close(made)


@pytest.fixture(params=["data-api", "psycopg"])
def actors(request: pytest.FixtureRequest, place: Place) -> Iterator[dict[str, Application]]:
    """ada and bob, who are signed in, and anon."""
    (ada, ada_token), (bob, bob_token) = place.users
    if request.param == "psycopg":
        yield {
            "ada": OverSql(place.conninfo, "authenticated", ada),
            "bob": OverSql(place.conninfo, "authenticated", bob),
            "anon": OverSql(place.conninfo, "anon"),
        }
    else:
        tokens = {"ada": ada_token, "bob": bob_token, "anon": None}
        made = {name: client(place, servers.PUBLISHABLE_KEY, token) for name, token in tokens.items()}
        yield {name: OverApi(one) for name, one in made.items()}
        for one in made.values():
            close(one)


@pytest.fixture(scope="module")
def library(place: Place) -> Iterator[HistoryStore]:
    with HistoryStore.from_postgres(place.conninfo) as store:
        start(store)
        yield store


def name() -> str:
    return f"conversation-{uuid.uuid4()}"


def messages(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def row(conversation_id: str, listed: list[Any], **more: Any) -> dict[str, Any]:
    return {"conversation_id": conversation_id, "user_id": "grace", "messages": listed, **more}


def texts(store: HistoryStore, session_id: str) -> list[str]:
    return [message.text for message in store.load(session_id)]


# --- the three calls


def test_the_view_has_exactly_the_columns_of_the_table(place: Place) -> None:
    with psycopg.connect(place.conninfo) as conn:
        found = conn.execute(
            "select attname, format_type(atttypid, null) from pg_attribute "
            "where attrelid = 'conversations'::regclass and attnum > 0 order by attnum"
        ).fetchall()
    assert found == [
        (column, kind.replace("timestamptz", "timestamp with time zone"))
        for column, kind in zip(COLUMNS, TYPES, strict=True)
    ]


def test_the_three_calls_work_and_the_library_sees_what_they_stored(
    application: Application, library: HistoryStore
) -> None:
    user, first, second = f"user-{uuid.uuid4()}", name(), name()
    data = {
        "id": str(uuid.uuid4()),
        "conversation_id": first,
        "user_id": user,
        "session_id": "browser-7",
        "timestamp": "2026-01-02T03:04:05+00:00",
        "messages": messages("hello", "hi", "who are you?", "a program"),
        "tokens_history": [{"input": 3, "output": 4.5}, None],
        "retriever_audits": [{"query": "hello", "documents": ["a", {"b": []}]}],
        "analytics": {"clicks": 3, "nested": {"a": None}},
        "metadata": {"model": "gpt", "list": [1, "2"]},
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    saved = application.save(data)
    application.save({**data, "id": None, "conversation_id": second, "timestamp": "2026-01-03T00:00:00+00:00"})

    assert application.one(first) == data == saved
    assert [found["conversation_id"] for found in application.of_user(user)] == [second, first]
    theirs = library.for_user(user)
    assert texts(theirs, first) == ["hello", "hi", "who are you?", "a program"]
    assert [m.type for m in theirs.load(first)] == ["human", "ai", "human", "ai"]
    assert len(theirs.turns(first).items) == 2
    session = theirs.session(first)
    assert session is not None
    assert (session.message_count, session.turn_count, session.title) == (4, 2, "hello")
    assert session.metadata == {"model": "gpt", "list": [1, "2"]}
    assert {s.session_id for s in theirs.sessions().items} == {first, second}


def test_what_the_library_stored_is_seen_and_goes_on(application: Application, library: HistoryStore) -> None:
    conversation, grace = name(), library.for_user("grace")
    call = {"name": "look", "args": {"at": 1}, "id": "c1", "type": "tool_call"}
    stored: list[Any] = [
        SystemMessage("be brief"),
        HumanMessage("hello"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("seen", tool_call_id="c1"),
        AIMessage("hi"),
    ]
    grace.append(conversation, stored, turn=Turn(uuid.uuid4(), model="m"))
    grace.update_session(conversation, metadata={"a": 1})

    found = application.one(conversation)
    assert [(m["role"], m["content"]) for m in found["messages"]] == [
        ("system", "be brief"), ("user", "hello"), ("assistant", ""), ("tool", "seen"), ("assistant", "hi"),
    ]  # fmt: skip
    assert found["messages"][2]["tool_calls"][0]["args"] == {"at": 1}
    assert (found["session_id"], found["metadata"], found["tokens_history"]) == (conversation, {"a": 1}, None)
    assert conversation in [one["conversation_id"] for one in application.of_user("grace")]

    listed = [*found["messages"], *messages("more", "much more")]
    application.save({**found, "messages": listed, "analytics": {"n": 1}})
    assert application.one(conversation)["messages"] == listed
    assert texts(grace, conversation) == ["be brief", "hello", "", "seen", "hi", "more", "much more"]
    assert grace.alternatives(conversation) == []
    assert grace.turns(conversation).items[0].model == "m"
    grace.append(conversation, [HumanMessage("and I")])
    assert application.one(conversation)["messages"][-1] == {"role": "user", "content": "and I"}
    grace.update_session(conversation, metadata={"b": 2}, title="named")
    again = application.one(conversation)
    assert (again["metadata"], again["analytics"]) == ({"a": 1, "b": 2}, {"n": 1})


@pytest.mark.parametrize(
    "shape",
    [
        lambda m: {"role": {"human": "user", "ai": "assistant"}.get(m.type, m.type), "content": m.content},
        lambda m: {"type": m.type, "content": m.content},
        lambda m: messages_to_dict([m])[0],
    ],
    ids=["role", "type", "data"],
)
def test_a_list_that_says_what_the_library_stored_stores_nothing(
    application: Application, library: HistoryStore, shape: Any
) -> None:
    conversation, grace = name(), library.for_user("grace")
    stored = [HumanMessage("hello"), AIMessage("hi", id="run-1")]
    grace.append(conversation, stored)
    before = [m.id for m in grace.messages(conversation).items]
    application.save(row(conversation, [shape(m) for m in stored]))
    assert [m.id for m in grace.messages(conversation).items] == before
    assert grace.alternatives(conversation) == []


def test_an_agents_list_in_openais_form_is_read_with_its_calls(application: Application, library: HistoryStore) -> None:
    conversation = name()
    listed = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "assistant", "content": "It is sunny."},
    ]  # fmt: skip
    application.save(row(conversation, listed))
    assert application.one(conversation)["messages"] == listed
    question, called, seen, answer = library.for_user("grace").load(conversation)
    assert (question.text, seen.text, answer.text) == ("weather?", "sun", "It is sunny.")
    assert isinstance(called, AIMessage)
    assert called.tool_calls == [{"name": "look", "args": {"at": 1}, "id": "c1", "type": "tool_call"}]


# --- the whole list on every save


def test_saved_again_and_again_nothing_is_stored_twice(application: Application, library: HistoryStore) -> None:
    conversation, grace = name(), library.for_user("grace")
    whole = messages(*(f"message {n % 3}" for n in range(20)))
    ids: list[uuid.UUID] = []
    for upto in (2, 2, 4, 10, 10, 20, 20):
        application.save(row(conversation, whole[:upto], tokens_history=[upto]))
        found = grace.messages(conversation).items
        assert [m.id for m in found][: len(ids)] == ids
        ids = [m.id for m in found]
        assert len(ids) == upto
    assert len(grace.turns(conversation).items) == 10
    assert grace.alternatives(conversation) == []
    assert len(application.of_user("grace")) == len({one["id"] for one in application.of_user("grace")})
    application.save(row(conversation, whole[:6]))  # a late save removes nothing, and forgets nothing
    found_row = application.one(conversation)
    assert (found_row["messages"], found_row["tokens_history"]) == (whole, [20])


def test_many_savers_of_one_list_store_it_once(place: Place, library: HistoryStore) -> None:
    conversation, whole = name(), messages(*map(str, range(12)))

    def save(n: int) -> None:
        OverSql(place.conninfo).save(row(conversation, whole[: n % 12 + 1]))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(save, range(24)))
    assert OverSql(place.conninfo).one(conversation)["messages"] == whole
    assert library.for_user("grace").alternatives(conversation) == []


def test_a_list_that_goes_on_otherwise_makes_an_alternative_and_one_that_was_there_comes_back(
    application: Application, library: HistoryStore
) -> None:
    conversation, grace = name(), library.for_user("grace")
    first, other = messages("q", "a", "q2", "a2"), messages("q", "b", "q3")
    application.save(row(conversation, first))
    ids = [m.id for m in grace.messages(conversation).items]
    application.save(row(conversation, other))
    assert application.one(conversation)["messages"] == other
    (alternative,) = grace.alternatives(conversation)
    assert [m.message.text for m in grace.alternative_messages(conversation, alternative.id)] == ["a", "q2", "a2"]

    application.save(row(conversation, first))
    assert application.one(conversation)["messages"] == first
    assert [m.id for m in grace.messages(conversation).items] == ids
    assert len(grace.alternatives(conversation)) == 1
    third = [*first[:3], *messages("x", "a3")[1:]]  # diverges within what came back
    application.save(row(conversation, third))
    application.save(row(conversation, other))
    application.save(row(conversation, first))
    assert application.one(conversation)["messages"] == first
    assert grace.session(conversation).message_count == 4


def test_a_turn_that_runs_while_the_list_is_replaced_is_refused(place: Place, library: HistoryStore) -> None:
    conversation, grace = name(), library.for_user("grace")
    OverSql(place.conninfo).save(row(conversation, messages("q", "a")))
    epoch = grace.session(conversation).epoch
    OverSql(place.conninfo).save(row(conversation, messages("q", "b")))
    assert grace.session(conversation).epoch > epoch


# --- update, delete, upsert


def test_an_update_sets_what_it_names(application: Application, library: HistoryStore) -> None:
    conversation, grace = name(), library.for_user("grace")
    application.save(row(conversation, messages("q", "a", "q2"), analytics={"n": 1}, timestamp="2026-01-01T00:00:00Z"))
    before = application.one(conversation)
    application.update(
        conversation, {"analytics": {"n": 2}, "session_id": "s", "timestamp": "2026-02-01T00:00:00+00:00"}
    )
    after = {**before, "analytics": {"n": 2}, "session_id": "s", "timestamp": "2026-02-01T00:00:00+00:00"}
    assert application.one(conversation) == after
    application.update(conversation, {"messages": messages("q", "a"), "metadata": None, "analytics": None})
    assert application.one(conversation)["messages"] == messages("q", "a")
    assert application.one(conversation)["analytics"] is None
    assert len(grace.alternatives(conversation)) == 1
    application.update(conversation, {"messages": []})
    assert application.one(conversation)["messages"] == []
    application.update(conversation, {k: v for k, v in before.items() if k != "created_at"})
    assert application.one(conversation)["messages"] == before["messages"]
    assert texts(grace, conversation) == ["q", "a", "q2"]
    application.update(name(), {"analytics": {}})  # no row, no change


@pytest.mark.parametrize("column", ["conversation_id", "user_id", "id"])
def test_an_update_of_what_names_a_conversation_is_refused(application: Application, column: str) -> None:
    conversation = name()
    application.save(row(conversation, messages("q")))
    with pytest.raises(REFUSED) as refused:
        application.update(conversation, {column: str(uuid.uuid4())})
    assert code(refused.value) in ("PT400", "400")
    assert "do not change" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"messages": {"role": "user"}}, "JSON list"),
        ({"messages": "text"}, "JSON list"),
        ({"conversation_id": None}, "conversation_id"),
        ({"conversation_id": ""}, "1 to 1000"),
        ({"conversation_id": "x" * 1001}, "1 to 1000"),
        ({"timestamp": "infinity"}, "years"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_is_written(
    application: Application, changes: dict[str, Any], says: str
) -> None:
    data = {**row(name(), messages("q")), "user_id": f"user-{uuid.uuid4()}", **changes}
    if isinstance(application, OverSql) and data["messages"] == "text":
        data["messages"] = '"text"'
    with pytest.raises(REFUSED) as refused:
        application.save(data)
    assert says in str(refused.value)
    assert application.of_user(data["user_id"]) == []


def test_a_deleted_conversation_is_gone_and_may_begin_again(application: Application, library: HistoryStore) -> None:
    conversation, grace = name(), library.for_user("grace")
    data = row(conversation, messages("q", "a"), analytics={"n": 1}, session_id="s")
    application.save(data)
    application.delete(conversation)
    assert conversation not in [one["conversation_id"] for one in application.of_user("grace")]
    assert grace.messages(conversation).items == []
    with pytest.raises(NotFound):
        grace.session(conversation)
    application.save(row(conversation, messages("q", "a")))
    found = application.one(conversation)
    assert (found["messages"], found["analytics"], found["session_id"]) == (messages("q", "a"), None, None)
    grace.delete_session(conversation)
    assert conversation not in [one["conversation_id"] for one in application.of_user("grace")]


def test_an_upsert_by_a_column_is_refused_by_the_database(application: Application) -> None:
    data = row(name(), messages("q"))

    def upsert() -> None:
        if isinstance(application, OverApi):
            application.table().upsert(data, on_conflict="conversation_id").execute()
        elif isinstance(application, OverSql):
            application.run(
                "insert into conversations (conversation_id) values ('c') "
                "on conflict (conversation_id) do update set conversation_id = excluded.conversation_id"
            )

    with pytest.raises(REFUSED) as refused:
        upsert()
    assert code(refused.value) == "42P10"


# --- messages of any kind

keys = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys | st.sampled_from(["content", "role", "type", "data", "$type", "id"]), inner, max_size=3)
    ),
    max_leaves=6,
)
content = text | st.lists(text | st.fixed_dictionaries({"type": st.just("text"), "text": text}), max_size=2) | anything
roles = st.sampled_from(
    ["user", "assistant", "system", "tool", "human", "ai", "chat", "function", "User", "AIMessageChunk", "bot", ""]
)
fields = st.dictionaries(
    st.sampled_from(
        ["name", "id", "tool_calls", "tool_call_id", "additional_kwargs", "response_metadata", "usage_metadata",
         "status", "artifact", "example", "timestamp", "type", "role", "invalid_tool_calls"]
    ),
    anything,
    max_size=4,
)  # fmt: skip


def shaped(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    body = st.tuples(fields, content).map(lambda both: {**both[0], "content": both[1]})
    if kind == "data":
        return st.tuples(roles, body | fields).map(lambda both: {"type": both[0], "data": both[1]})
    return st.tuples(roles, body | fields).map(lambda both: {**both[1], kind: both[0]})


lists = st.lists(shaped("role") | shaped("type") | shaped("data") | anything, max_size=5)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(saves=st.lists(lists, min_size=1, max_size=3), kept=anything, metadata=anything)
def test_what_comes_out_is_what_went_in(
    place: Place, library: HistoryStore, saves: Any, kept: Any, metadata: Any
) -> None:
    conversation, application = name(), OverSql(place.conninfo)
    for listed in saves:
        before: Any = application.run("select messages from conversations where conversation_id = %s", conversation)
        application.save(
            {
                "conversation_id": conversation,
                "messages": Jsonb(listed),
                "tokens_history": Jsonb(kept),
                "metadata": Jsonb(metadata),
            }
        )
        found = application.one(conversation)
        late = bool(before) and before[0][: len(listed)] == listed
        assert found["messages"] == (before[0] if late else listed)
        assert (found["tokens_history"], found["metadata"]) == (kept, metadata)
        assert found["conversation_id"] == conversation
    stored = library.messages(conversation).items
    assert len(stored) == len(found["messages"])
    assert len({m.id for m in stored}) == len(stored)
    application.update(conversation, {"messages": saves[0]})
    assert application.one(conversation)["messages"] == saves[0]
    assert [m.message.additional_kwargs.get("unreadable") for m in library.messages(conversation).items] == [
        None for _ in saves[0]
    ]


# --- who sees and writes what


def test_a_signed_in_user_saves_and_sees_their_own_and_nobody_else_does(
    actors: dict[str, Application], place: Place, library: HistoryStore
) -> None:
    ada, bob = place.users[0][0], place.users[1][0]
    conversation = name()
    data = {"conversation_id": conversation, "user_id": ada, "messages": messages("ada's secret", "hi")}
    actors["ada"].save(data)
    actors["ada"].save({**data, "messages": messages("ada's secret", "hi", "more")})
    assert actors["ada"].one(conversation)["messages"] == messages("ada's secret", "hi", "more")
    assert texts(library.for_user(ada), conversation) == ["ada's secret", "hi", "more"]
    nameless = name()
    actors["ada"].save({"conversation_id": nameless, "messages": messages("mine")})  # the claims say whose it is
    assert actors["ada"].one(nameless)["user_id"] == ada

    before = library.for_user(ada).messages(conversation).items
    assert actors["bob"].of_user(ada) == []
    with pytest.raises((*REFUSED, ValueError)):
        actors["bob"].one(conversation)
    with pytest.raises(REFUSED) as refused:
        actors["bob"].save(data)
    assert code(refused.value) == "42501"
    actors["bob"].update(conversation, {"messages": []})
    actors["bob"].delete(conversation)
    actors["bob"].save({**data, "user_id": bob})  # the same name is another conversation
    assert library.for_user(ada).messages(conversation).items == before
    attempts: list[Callable[[], object]] = [
        lambda: actors["anon"].of_user(ada),
        lambda: actors["anon"].save(data),
        lambda: actors["anon"].save({"conversation_id": name(), "messages": []}),
        lambda: actors["anon"].update(conversation, {"messages": []}),
        lambda: actors["anon"].delete(conversation),
    ]
    for attempt in attempts:
        with pytest.raises(REFUSED) as refused:
            attempt()
        assert code(refused.value) == "42501"
    assert library.for_user(ada).messages(conversation).items == before


def test_rows_that_a_user_has_written_past_the_functions_hide_nobodys(place: Place, library: HistoryStore) -> None:
    ada = library.for_user(place.users[0][0])
    broken, sound = name(), name()
    for conversation in (broken, sound):
        ada.append(conversation, [HumanMessage("hello")])
    with psycopg.connect(place.conninfo, autocommit=True) as conn:
        for kept in (
            '{"conversations_table": {"id": 7, "timestamp": [], "as_of": "x", "form": {}}}',
            '"\\u0000"',
            "[]",
        ):
            conn.execute("update chat_history_sessions set metadata = %s where session_id = %s", [kept, broken])
            for data in ("[]", '{"content": "\\ud800"}', '{"additional_kwargs": {"conversations_table": {"form": 1}}}',
                         '{"additional_kwargs": {"conversations_table": {"form": "role", "as": null}}}',
                         '{"content": {"$type": "str", "value": "a\\\\u0000b"}}'):  # fmt: skip
                conn.execute(
                    "update chat_history_messages m set data = %s from chat_history_sessions s "
                    "where s.session_key = m.session_key and s.session_id = %s",
                    [data, broken],
                )
                rows = OverSql(place.conninfo).of_user(place.users[0][0])
                assert {broken, sound} <= {found["conversation_id"] for found in rows}
                OverSql(place.conninfo).save(
                    {"conversation_id": broken, "user_id": place.users[0][0], "messages": messages("hello")}
                )


# --- migrating


def test_migrating_twice_changes_nothing_and_another_name_is_another_view(database: str) -> None:
    migrate(database, conversations="conversations")
    OverSql(database).save(row("c", messages("q")))
    migrate(database, conversations="conversations")
    migrate(database, conversations="chats")
    with psycopg.connect(database) as conn:
        assert conn.execute("select conversation_id from chats").fetchall() == [("c",)]
        assert conn.execute("select count(*) from pg_trigger where not tgisinternal").fetchone() == (2,)
        for role, allowed in (("authenticated", True), ("service_role", True), ("anon", False)):
            for right in ("select", "insert", "update", "delete"):
                query = "select has_table_privilege(%s, 'chats', %s)"
                assert conn.execute(query, [role, right]).fetchone() == (allowed,)
            assert conn.execute("select has_table_privilege(%s, 'chats', 'truncate')", [role]).fetchone() == (False,)


@pytest.mark.parametrize("kind", ["table", "view"])
def test_a_table_of_that_name_is_left_as_it_is(database: str, kind: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"create {kind} conversations as select 'kept' as what".encode())
        with pytest.raises(Conflict, match="import table"):
            migrate(database, conversations="conversations")
        assert conn.execute("select what from conversations").fetchall() == [("kept",)]


@pytest.mark.parametrize("wrong", ["", "1a", "Conversations", "a b", 'a"b', "chat_history_x", "a" * 64, "a;drop"])
def test_a_name_that_is_no_views_is_refused(database: str, wrong: str) -> None:
    with pytest.raises(InvalidInput):
        migrate(database, conversations=wrong)
    with pytest.raises(InvalidInput):
        script(conversations=wrong)
    with psycopg.connect(database) as conn, pytest.raises(psycopg.Error) as refused:
        conn.execute("select chat_history_open_conversations(%s)", [wrong])
    assert refused.value.sqlstate == "PT400"


@pytest.mark.parametrize("schema", ["public", "Chat"])
def test_the_command_and_its_printed_form_make_the_view_in_any_schema(empty_database: str, schema: str) -> None:
    printed = CliRunner().invoke(main, ["migrate", "--print", "--schema", schema, "--conversations"])
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(printed.output.encode())
    done = CliRunner().invoke(
        main, ["migrate", "--db-url", empty_database, "--schema", schema, "--conversations", "talks"]
    )
    assert done.exit_code == 0, done.output
    with psycopg.connect(empty_database) as conn:
        conn.execute(f"insert into \"{schema}\".talks (conversation_id, messages) values ('c', '[\"hello\"]')".encode())
        found = conn.execute(f'select messages from "{schema}".conversations'.encode()).fetchall()
        assert found == [(["hello"],)]


def test_what_is_exported_comes_back_as_a_row_of_the_view(database: str, pg: servers.Postgres, tmp_path: Path) -> None:
    migrate(database, conversations="conversations")
    listed = [*messages("q", "a"), "no message", {"role": "user", "content": "q2", "rating": 5}]
    data = row("c", listed, tokens_history=[1], metadata={"a": 1}, session_id="s")
    saved = OverSql(database).save(copy.deepcopy(data))
    other = pg.url(pg.create_database("template_history"))
    migrate(other, conversations="conversations")
    with HistoryStore.from_postgres(database) as source, HistoryStore.from_postgres(other) as target:
        source.for_user("grace").export_sessions(tmp_path / "all.jsonl")
        target.for_user("grace").import_sessions(tmp_path / "all.jsonl")
    found = OverSql(other).one("c")
    for column in ("conversation_id", "user_id", "session_id", "messages", "tokens_history", "metadata", "id"):
        assert found[column] == saved[column], column


def test_what_a_session_says_of_itself_may_have_64_kb_beside_the_columns(place: Place, library: HistoryStore) -> None:
    conversation, grace = name(), library.for_user("grace")
    OverSql(place.conninfo).save(row(conversation, messages("q"), retriever_audits=["x" * 100_000]))
    grace.update_session(conversation, title="named", metadata={"a": "y"})
    assert OverSql(place.conninfo).one(conversation)["retriever_audits"] == ["x" * 100_000]
    with pytest.raises(InvalidSession):
        grace.update_session(conversation, metadata={"a": "y" * 70_000})


# --- from a table to the view

TABLE = """
create table conversations (id uuid primary key default gen_random_uuid(), conversation_id text, user_id text,
  session_id text, "timestamp" timestamptz, messages jsonb, tokens_history jsonb, retriever_audits jsonb,
  analytics jsonb, metadata jsonb, created_at timestamptz default now())
"""
VALUES = "values (gen_random_uuid(), %s, 'grace', 's', now(), %s, '[1]', null, '{}', %s, now())"


@pytest.mark.parametrize("imported", [True, False], ids=["imported first", "at once"])
def test_the_documented_swap_takes_an_existing_table_over(database: str, imported: bool) -> None:
    page = (servers.ROOT / "docs" / "conversations-table.md").read_text()
    (swap,) = re.findall(r"```sql\n(begin;.*?)```", page, re.DOTALL)
    insert = swap[swap.index("insert into conversations (") : swap.index("  select id")]
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLE)
        shapes: list[list[Any]] = [
            messages("q", "a", "q2", "a2"),
            [{"type": "human", "content": "q"}, {"type": "ai", "content": "a"}],
            messages_to_dict([HumanMessage("q", name="ada"), AIMessage("a", id="run-1")]),
            [{"role": "user", "content": "q", "rating": 5}, {"kind": "chart", "points": [1, 2]}, "text"],
        ]
        for n, listed in enumerate(shapes):
            for upto in (1, len(listed)):  # an application that inserts on every save has several rows
                conn.execute(
                    (insert + VALUES).encode(),
                    [f"c{n}", Jsonb(listed[:upto]), Jsonb({"n": n})],
                )
        if imported:
            with HistoryStore.from_postgres(database) as store:
                store.import_table(database, "conversations", format="conversations-table")
        stored = set(conn.execute("select id from chat_history_messages").fetchall())
        conn.execute(swap.encode())
        for n, listed in enumerate(shapes):
            found = OverSql(database).one(f"c{n}")
            if not imported:
                assert found["messages"] == listed
            assert len(found["messages"]) == len(listed)
            assert (found["tokens_history"], found["analytics"], found["metadata"]) == ([1], {}, {"n": n})
        now = conn.execute("select id from chat_history_messages where position > 0").fetchall()
        assert len(now) == 11
        assert stored <= set(now)  # what was imported is known again; an import leaves out what is no message
        assert conn.execute("select count(*) from chat_history_alternatives").fetchone() == (0,)
        assert conn.execute("select count(*) from conversations_before").fetchone() == (8,)
