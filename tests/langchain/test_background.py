"""`store.run_turn`: turns that run on in the background, followed and stopped from another store."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from langchain_supabase_history import HistoryError, HistoryStore, InvalidInput, NotSaved, Turn, migrate
from tests import servers
from tests.conftest import STORES, postgres
from tests.langchain.test_runnable import stored
from tests.shapes import IN, PROMPT, Echo, config_of


class Paced:
    """A model that says a word each time it is let go on; `ended` when it is closed."""

    def __init__(self, *words: str, error: Exception | None = None) -> None:
        self.words, self.error = words, error
        self.steps = threading.Semaphore(0)
        self.ended = threading.Event()

    def go(self, steps: int = 1) -> None:
        self.steps.release(steps)

    def say(self, messages: list[BaseMessage]) -> Iterator[AIMessageChunk]:
        try:
            for word in self.words:
                assert self.steps.acquire(timeout=60)
                yield AIMessageChunk(content=word)
            assert self.steps.acquire(timeout=60)
            if self.error is not None:
                raise self.error
        finally:
            self.ended.set()

    async def asay(self, messages: list[BaseMessage]) -> AsyncIterator[AIMessageChunk]:
        try:
            for word in self.words:
                while not self.steps.acquire(blocking=False):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                yield AIMessageChunk(content=word)
            while not self.steps.acquire(blocking=False):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if self.error is not None:
                raise self.error
        finally:
            self.ended.set()

    @property
    def runnable(self) -> Runnable[Any, Any]:
        return RunnableLambda(self.say, self.asay)


class Server:
    """An application's process: a store of its own, whose turns run in the background, sync or in an event loop."""

    def __init__(self, store: HistoryStore, is_async: bool) -> None:
        self.store, self.is_async = store, is_async
        if is_async:
            self.loop = asyncio.new_event_loop()
            self.thread = threading.Thread(target=self.loop.run_forever)
            self.thread.start()

    def await_(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def run_turn(self, runnable: Runnable[Any, Any], session: str, input: Any = "q", **options: Any) -> uuid.UUID:
        bot = self.store.with_history(runnable, **options)
        if self.is_async:
            found: uuid.UUID = self.await_(self.store.arun_turn(bot, input, config_of(session)))
            return found
        return self.store.run_turn(bot, input, config_of(session))

    def end(self) -> None:
        """Close the store; nothing of a turn is left."""
        if not self.is_async:
            self.store.close()
        elif self.thread.is_alive():
            self.await_(self.store.aclose())
            left = asyncio.run_coroutine_threadsafe(self._left(), self.loop).result(60)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(60)
            self.loop.close()
            assert left == []
        for thread in threading.enumerate():
            if thread.name.startswith("chat-history-"):
                thread.join(60)
                assert not thread.is_alive(), thread

    async def _left(self) -> list[str]:
        ours = [task for task in asyncio.all_tasks() if task.get_name().startswith("chat-history")]
        if ours:
            await asyncio.wait(ours, timeout=60)
        return [task.get_name() for task in ours if not task.done()]


@pytest.fixture(params=["psycopg", "psycopg-async", "data-api", "data-api-async"])
def server(request: pytest.FixtureRequest, shared_database: str) -> Iterator[Server]:
    transport, _, is_async = request.param.removesuffix("-async"), 0, request.param.endswith("-async")
    if transport == "psycopg":
        store = HistoryStore.from_postgres(shared_database)
    else:
        store = HistoryStore.from_supabase(request.getfixturevalue("data_api").url, servers.SECRET_KEY)
    found = Server(store, is_async)
    yield found
    found.end()


@pytest.fixture
def other(server: Server, request: pytest.FixtureRequest) -> HistoryStore:
    """A store of another process."""
    name = "data-api" if server.store.driver.transport != "psycopg" else "psycopg"
    found: HistoryStore = request.getfixturevalue(STORES[name])
    return found


def rest(deltas: Iterator[Any]) -> str:
    return "".join(delta.text for delta in deltas)


def rows_left(conninfo: str, turn_id: uuid.UUID) -> int:
    with psycopg.connect(conninfo) as conn:
        row = conn.execute("select count(*) from chat_history_streams where turn_id = %s", [turn_id]).fetchone()
    assert row is not None
    return int(row[0])


def test_a_turn_is_followed_while_it_runs(
    server: Server, other: HistoryStore, session: str, shared_database: str
) -> None:
    model = Paced("one ", "two ", "three")
    turn_id = server.run_turn(model.runnable, session)
    (running,) = other.turns(session)
    assert (running.id, running.status) == (turn_id, "running")
    assert [m.text for m in running.question or ()] == ["q"]
    first = other.follow(session, interval=0.01)
    model.go()
    assert next(first).text == "one "
    second = other.follow(session, turn_id=turn_id, interval=0.01)
    assert next(second).text == "one "
    model.go(3)
    assert rest(first) == rest(second) == "two three"
    assert stored(other, session) == [("q", "completed"), ("one two three", "completed")]
    server.end()
    assert rows_left(shared_database, turn_id) == 0


def test_a_stop_from_elsewhere_interrupts_with_what_was_there(
    server: Server, other: HistoryStore, session: str
) -> None:
    model = Paced("half ", "of it", "never")
    server.run_turn(model.runnable, session)
    following = other.follow(session, interval=0.01)
    model.go(2)
    shown = next(following).text
    assert other.stop_turn(session) is True
    assert shown + rest(following) == "half of it"  # of a model that says nothing more, and blocks its thread
    assert stored(other, session) == [("q", "interrupted"), ("half of it", "interrupted")]
    model.go(2)
    server.end()
    assert stored(other, session) == [("q", "interrupted"), ("half of it", "interrupted")]
    assert len(other.turns(session)) == 1


def test_the_end_of_a_store_interrupts_its_turns(server: Server, other: HistoryStore, session: str) -> None:
    models = [Paced("half ", "never"), Paced("never")]
    for model in models:
        server.run_turn(model.runnable, session)
    models[0].go()
    assert next(other.follow(session, turn_id=other.turns(session)[0].id)).text == "half "
    server.await_(server.store.aclose()) if server.is_async else server.store.close()
    said = [("half ", "interrupted")]
    assert sorted(stored(other, session)) == sorted([("q", "interrupted")] * 2 + said)
    for model in models:
        model.go(2)  # a model that blocks its thread is left alone until it returns
    server.end()
    assert {turn.status for turn in other.turns(session)} == {"interrupted"}


def test_a_model_that_fails(server: Server, other: HistoryStore, session: str) -> None:
    model = Paced("half ", error=ValueError("broken"))
    server.run_turn(model.runnable, session)
    following = other.follow(session, interval=0.01)
    model.go()
    assert next(following).text == "half "
    model.go()
    assert rest(following) == ""
    (turn,) = other.turns(session)
    assert (turn.status, turn.error) == ("failed", "ValueError: broken")


@pytest.mark.parametrize("how", ["clear", "delete"])
def test_a_session_that_is_erased_meanwhile(server: Server, other: HistoryStore, session: str, how: str) -> None:
    told: list[HistoryError] = []
    server.store = server.store.within(on_error=lambda error, messages: told.append(error))
    model = Paced("half ", "never", "never")
    turn_id = server.run_turn(model.runnable, session)
    following = other.follow(session, interval=0.01)
    model.go()
    assert next(following).text == "half "
    other.clear(session) if how == "clear" else other.delete_session(session)
    assert rest(following) == ""
    model.go(3)
    server.end()
    assert other.messages(session).items == []
    assert told == []
    assert rest(other.follow(session, turn_id=turn_id)) == ""


def test_a_writer_that_was_taken_for_gone_stores_the_whole(
    server: Server, other: HistoryStore, session: str, shared_database: str
) -> None:
    model = Paced("half ", "and whole")
    turn_id = server.run_turn(model.runnable, session)
    following = other.follow(session, interval=0.01)
    model.go()
    assert next(following).text == "half "
    with psycopg.connect(shared_database, autocommit=True) as conn:
        while not rows_lost(conn, turn_id):  # the writer may call in between
            other.interrupt_turns(session, older_than=3600)
    assert stored(other, session) == [("q", "interrupted"), ("half ", "interrupted")]
    model.go(2)
    assert model.ended.wait(60)
    server.end()
    assert stored(other, session) == [("q", "completed"), ("half and whole", "completed")]


def rows_lost(conn: psycopg.Connection[Any], turn_id: uuid.UUID) -> bool:
    conn.execute("update chat_history_streams set lost_at = created_at where turn_id = %s", [turn_id])
    row = conn.execute("select status from chat_history_turns where id = %s", [turn_id]).fetchone()
    return row == ("interrupted",)


class Tool(Echo):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


SHAPES: dict[str, tuple[Callable[[], Runnable[Any, Any]], Any, dict[str, Any]]] = {
    "model": (Echo, "one two three", {}),
    "text": (lambda: PROMPT | Echo() | StrOutputParser(), {"input": "one two three"}, IN["keys"]),
    "agent": (lambda: create_agent(Tool(), []), {"messages": [("human", "one two three")]}, {}),
    "dictionary": (
        lambda: RunnablePassthrough.assign(answer=PROMPT | Echo() | StrOutputParser()),
        {"input": "one two three"},
        {**IN["keys"], "output_messages_key": "answer"},
    ),
    "nothing streamed": (lambda: RunnableLambda(lambda _: AIMessage([{"type": "text", "text": "a b"}])), "q", {}),
    "made of the output": (lambda: RunnableLambda(lambda _: 7), "q", {"answer": lambda n: f"seven {n}"}),
    "NUL": (lambda: RunnableLambda(lambda _: "a\0b"), "q", {}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_text_of_all_deltas_is_the_stored_answer(
    server: Server, other: HistoryStore, session: str, shape: str
) -> None:
    make, input, options = SHAPES[shape]
    turn_id = server.run_turn(make(), session, input, **options)
    shown = rest(other.follow(session, turn_id=turn_id, interval=0.01))
    (answer,) = [m.message for m in other.messages(session) if m.message.type == "ai"]
    if shape != "NUL":  # read along it has a replacement character, stored it has the NUL
        assert shown == answer.text
    assert other.turns(session)[0].status == "completed"


def test_what_cannot_be_run_is_refused(server: Server, other: HistoryStore, session: str) -> None:
    with pytest.raises(InvalidInput):
        other.run_turn(server.store.with_history(Echo()), "q", config_of(session))
    nothing: list[Any] = [[], None]
    for question in nothing:
        with pytest.raises(HistoryError):
            server.run_turn(Echo(), session, question)
    with pytest.raises(HistoryError):
        server.run_turn(Echo(), "")
    assert other.turns(session).items == [] or {t.status for t in other.turns(session)} == {"failed"}


def test_an_answer_that_cannot_be_stored_is_reported(server: Server, other: HistoryStore, session: str) -> None:
    told: list[tuple[HistoryError, list[str]]] = []

    def on_error(error: HistoryError, messages: Sequence[BaseMessage]) -> None:
        told.append((error, [m.text for m in messages]))
        reported.set()

    reported = threading.Event()
    server.store = server.store.within(on_error=on_error)
    server.run_turn(RunnableLambda(lambda _: object()), session)
    assert reported.wait(60)
    ((error, messages),) = told
    assert isinstance(error, NotSaved)
    assert messages == ["q"]
    assert other.turns(session)[0].status == "failed"


def test_a_turn_inside_another_run_is_a_turn_of_its_own(server: Server, other: HistoryStore, session: str) -> None:
    def outer(messages: list[BaseMessage]) -> str:
        if not server.is_async:
            begun.append(server.run_turn(Echo(), session, "inner"))
        return "outer"

    begun: list[uuid.UUID] = []
    other.with_history(RunnableLambda(outer)).invoke("outer", config_of(session))
    for turn_id in begun:
        assert rest(other.follow(session, turn_id=turn_id)).startswith("you said: ")


TALKS = """
import sys, time
from langchain_core.runnables import RunnableLambda
from langchain_supabase_history import HistoryStore

def say(_):
    yield "half "
    time.sleep(600)

store = HistoryStore.from_postgres(sys.argv[1])
print(store.run_turn(store.with_history(RunnableLambda(say)), "q", {"configurable": {"session_id": sys.argv[2]}}))
sys.stdout.flush()
time.sleep(600)
"""


def test_what_a_killed_process_has_written_is_kept(
    postgres_store: HistoryStore, session: str, shared_database: str
) -> None:
    process = subprocess.Popen([sys.executable, "-c", TALKS, shared_database, session], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        turn_id = uuid.UUID(process.stdout.readline().decode().strip())
        following = postgres_store.follow(session, turn_id=turn_id, interval=0.01)
        assert next(following).text == "half "
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with psycopg.connect(shared_database, autocommit=True) as conn:  # the lease ends
        conn.execute("update chat_history_streams set lost_at = created_at where turn_id = %s", [turn_id])
    assert rest(following) == ""
    assert stored(postgres_store, session) == [("q", "interrupted"), ("half ", "interrupted")]


def test_the_end_of_the_loop_interrupts(postgres_store: HistoryStore, session: str) -> None:
    async def main() -> None:
        async def say(_: Any) -> AsyncIterator[str]:
            yield "half "
            await asyncio.Event().wait()

        bot = store.with_history(RunnableLambda(say))
        await store.arun_turn(bot, "q", config_of(session))
        async for _ in store.afollow(session, interval=0.01):
            break

    store = postgres_store
    asyncio.run(main())
    assert stored(store, session) == [("q", "interrupted"), ("half ", "interrupted")]
    assert isinstance(store.turns(session)[0], Turn)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
def test_a_database_that_is_away_in_mid_answer(session: str, signum: int) -> None:
    """A crash empties the unlogged tables: the writer writes all of its text again."""
    model = Paced("one ", "two ", "three ", "four")
    with postgres(servers.POSTGRES_VERSION) as database:
        conninfo = database.url(database.create_database())
        migrate(conninfo)
        with HistoryStore.from_postgres(conninfo) as store, HistoryStore.from_postgres(conninfo) as other:
            turn_id = store.run_turn(store.with_history(model.runnable), "q", config_of(session))
            following = other.follow(session, turn_id=turn_id, interval=0.01)
            model.go()
            shown = next(following).text
            database.stop(signum)
            model.go(2)
            database.start()
            while shown != "one two three ":
                shown += next(following).text
            model.go(2)
            assert shown + rest(following) == "one two three four"
            assert stored(other, session) == [("q", "completed"), ("one two three four", "completed")]
