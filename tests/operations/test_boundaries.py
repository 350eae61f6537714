"""The edges of the API: what an append takes, whole listings, bound stores, errors and stores in other processes."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import pickle
import uuid
import weakref
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pydantic
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda

from langchain_supabase_history import (
    Conflict,
    HistoryError,
    HistoryStore,
    InvalidInput,
    InvalidMessage,
    NotSaved,
    SupabaseChatMessageHistory,
    Unavailable,
    aiterate,
    errors,
    iterate,
)
from tests.conftest import Api

# --- what an append takes


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (HumanMessage("one"), [HumanMessage("one")]),
        ({"role": "user", "content": "one"}, [HumanMessage("one")]),
        ([("user", "q"), ("assistant", "a")], [HumanMessage("q"), AIMessage("a")]),
        ([{"role": "system", "content": "s"}, HumanMessage("q")], [SystemMessage("s"), HumanMessage("q")]),
        (
            [{"role": "user", "content": "q"}, {"role": "tool", "content": "r", "tool_call_id": "c"}],
            [HumanMessage("q"), ToolMessage("r", tool_call_id="c")],
        ),
        ((HumanMessage("one"), HumanMessage("two")), [HumanMessage("one"), HumanMessage("two")]),
    ],
    ids=["message", "dictionary", "pairs", "mixed", "tool", "tuple"],
)
def test_an_append_takes_what_chat_models_take(api: Api, session: str, given: Any, stored: list[BaseMessage]) -> None:
    assert [m.message for m in api.append(session, given)] == stored
    assert [m.message for m in api.messages(session)] == stored


@pytest.mark.parametrize("given", ["text", b"x", 7, None, {"role": "user"}, [("user",)], [("nobody", "x")], [{"a": 1}]])
def test_what_is_no_message_is_refused_before_anything_is_stored(api: Api, session: str, given: Any) -> None:
    with pytest.raises(InvalidMessage):
        api.append(session, given)
    assert api.messages(session).items == []


def test_an_idempotency_key_names_its_messages_all_of_them(api: Api, session: str) -> None:
    first = api.append(session, [HumanMessage("q")], idempotency_key="k")
    assert api.append(session, [HumanMessage("q")], idempotency_key="k") == first
    for other in ([HumanMessage("q"), AIMessage("more")], [HumanMessage("other")]):
        with pytest.raises(Conflict):
            api.append(session, other, idempotency_key="k")
    assert [m.message.text for m in api.messages(session)] == ["q"]


def test_one_and_one_point_zero_are_two_contents(postgres_store: HistoryStore, session: str) -> None:
    """Over psycopg alone: the server of these tests' Data API makes 1.0 to 1, which PostgREST does not."""
    ids = [uuid.uuid4()]
    postgres_store.append(session, [HumanMessage("q", additional_kwargs={"n": 1})], ids=ids)
    with pytest.raises(Conflict):
        postgres_store.append(session, [HumanMessage("q", additional_kwargs={"n": 1.0})], ids=ids)


# --- whole listings


def test_more_than_a_page_and_all_pages(api: Api, session: str) -> None:
    for start in range(0, 2500, 500):
        api.append(session, [HumanMessage(f"{n}") for n in range(start, start + 500)])
    page = api.messages(session, limit=2200)
    assert [m.message.text for m in page] == [f"{n}" for n in range(2200)]
    rest = api.messages(session, limit=5000, cursor=page.next_cursor)
    assert (len(rest), rest.next_cursor) == (300, None)
    assert rest[0].message.text == "2200"
    assert [m.position for m in rest[-2:]] == [2499, 2500]
    assert HumanMessage("2300") in [m.message for m in rest]
    assert len(api.turns(session, limit=3000)) == 5
    everything = [m.message.text for m in iterate(api.messages, session, limit=400)]
    assert everything == [f"{n}" for n in range(2500)]

    async def all_of_them() -> list[str]:
        return [m.message.text async for m in aiterate(api.store.amessages, session)]

    assert asyncio.run(all_of_them()) == everything


# --- a store that is bound to a user


def test_a_bound_store_reaches_nobody_else(api: Api, session: str, tmp_path: Path) -> None:
    ada, bob = api.for_user("ada"), api.for_user("bob")
    bob.append(session, [HumanMessage("bob's")])
    chain = ada.store.with_history(RunnableLambda(lambda messages: AIMessage("a")))
    config: Any = {"configurable": {"session_id": session, "user_id": "bob"}}
    attempts: list[Any] = [
        lambda: ada.for_user("bob"),
        lambda: ada.store.get_session_history(session, "bob"),
        lambda: SupabaseChatMessageHistory(session, ada.store, user_id="bob"),
        lambda: chain.invoke("q", config),
        lambda: asyncio.run(chain.ainvoke("q", config)),
        lambda: list(chain.stream("q", config)),
        lambda: ada.usage(user_id="bob"),
        lambda: ada.delete_user("bob"),
        lambda: ada.reassign_user("bob", "ada"),
        lambda: ada.export_user("bob", tmp_path / "bob"),
        lambda: ada.import_sessions(tmp_path / "bob", user_id="bob"),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidInput, match=r"^This store is bound to another user"):
            attempt()
    assert [m.message.text for m in bob.messages(session)] == ["bob's"]
    assert ada.for_user("ada").messages(session).items == []
    bob.delete_session(session)


# --- other processes


def every_error() -> list[HistoryError]:
    made: list[HistoryError] = []
    for name in dir(errors):
        cls = getattr(errors, name)
        if isinstance(cls, type) and issubclass(cls, HistoryError) and cls is not NotSaved:
            made += [cls("It says.", advice="Do this.", code="42501"), cls("It says.")]
    not_saved = NotSaved("It says.", output={"answer": "a"}, messages=[HumanMessage("q")])
    not_saved.__cause__ = Unavailable("Away.")
    return [*made, not_saved]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_errors_are_the_same_after_a_copy(error: HistoryError) -> None:
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(copied) is type(error)
        assert str(copied) == str(error)
        assert copied.__dict__ == error.__dict__
        assert str(copied.__cause__) == str(error.__cause__)


def fail() -> None:
    raise NotSaved("It says.", output="the answer", messages=[HumanMessage("q")])


def test_an_error_comes_out_of_a_process_pool() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(NotSaved) as caught:
            pool.submit(fail).result(60)
        assert caught.value.output == "the answer"
        assert pool.submit(abs, -1).result(60) == 1  # the pool is not broken by it


def test_what_holds_connections_says_where_to_make_it(store: HistoryStore, session: str) -> None:
    for made in (
        store,
        store.for_user("ada"),
        store.get_session_history(session),
        store.with_history(RunnableLambda(str)),
    ):
        with pytest.raises(TypeError, match="Make it in the worker"):
            pickle.dumps(made)
    assert copy.copy(store).load(session) == []


def test_another_librarys_loop_is_refused_before_anything_is_stored(store: HistoryStore, session: str) -> None:
    """As under trio: nothing of asyncio runs."""
    for operation in (store.aappend(session, [HumanMessage("q")]), store.aload(session), store.amessages(session)):
        with pytest.raises(InvalidInput, match="asyncio"):
            operation.send(None)
    assert store.load(session) == []


def test_classes_that_are_made_at_run_time_are_let_go(store: HistoryStore, session: str) -> None:
    def make() -> weakref.ref[type]:
        model = pydantic.create_model("Artifact", n=(int, 1))
        store.append(session, [ToolMessage("r", tool_call_id="c", artifact=model())])
        return weakref.ref(model)

    made = [make() for _ in range(5)]
    gc.collect()
    assert [ref for ref in made if ref() is not None] == []


def test_a_damaged_outbox_does_not_stand_in_the_way_of_reading(
    shared_database: str, session: str, tmp_path: Path
) -> None:
    path = tmp_path / "outbox"
    store = HistoryStore.from_postgres(shared_database, outbox=path)
    store.append(session, [HumanMessage("q")])
    store.close()
    path.write_bytes(b"no database at all" * 100)
    try:
        assert [m.text for m in store.load(session)] == ["q"]
        assert store.sessions(prefix=session).items[0].session_id == session
    finally:
        store.close()
