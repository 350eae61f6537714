"""`store.with_history`: turns that are cut short, by their consumer, a cancellation or the end of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import anyio
import psycopg
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda
from starlette.responses import StreamingResponse

from langchain_supabase_history import HistoryError, HistoryStore, Unavailable
from tests.langchain.test_runnable import stored
from tests.shapes import IN, PROMPT, Echo, config_of, run, texts


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to pass")


class Stuck:
    """A model that says half of its answer and waits for ever; `reached` then, `ended` when it is stopped."""

    def __init__(self) -> None:
        self.reached, self.ended = asyncio.Event(), False

    async def __call__(self, messages: list[BaseMessage]) -> AsyncIterator[AIMessageChunk]:
        try:
            yield AIMessageChunk(content="half ")
            self.reached.set()
            await asyncio.Event().wait()
        finally:
            self.ended = True

    @property
    def runnable(self) -> Runnable[Any, Any]:
        return RunnableLambda(self.__call__)


Cut = Callable[[Runnable[Any, Any], Any, Stuck], Awaitable[None]]


async def consume(chain: Runnable[Any, Any], config: Any) -> None:
    async for _ in chain.astream("and so on", config):
        pass


async def cancelled(work: Any, stuck: Stuck) -> None:
    task = asyncio.ensure_future(work)
    await stuck.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def scope_cancelled(work: Any, stuck: Stuck) -> None:
    with anyio.move_on_after(0.2) as scope:
        await work
    assert scope.cancelled_caught


async def timed_out(work: Any, stuck: Stuck) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await work


async def left_to_the_loop(work: Any, stuck: Stuck) -> None:
    left.append(asyncio.ensure_future(work))
    await stuck.reached.wait()


left: list[asyncio.Future[Any]] = []


async def closed(chain: Runnable[Any, Any], config: Any, stuck: Stuck) -> None:
    stream = chain.astream("and so on", config)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: stuck.ended)


async def dropped(chain: Runnable[Any, Any], config: Any, stuck: Stuck) -> None:
    stream = chain.astream("and so on", config)
    await anext(stream)
    del stream
    gc.collect()
    await until(lambda: stuck.ended)


async def broken_off(chain: Runnable[Any, Any], config: Any, stuck: Stuck) -> None:
    async for _ in chain.astream("and so on", config):
        break


def in_stream(how: Any) -> Cut:
    return lambda chain, config, stuck: how(consume(chain, config), stuck)


def in_invoke(how: Any) -> Cut:
    return lambda chain, config, stuck: how(chain.ainvoke("and so on", config), stuck)


HOW = [cancelled, scope_cancelled, timed_out, left_to_the_loop]


@pytest.mark.parametrize(
    "cut",
    [*map(in_stream, HOW), closed, dropped, broken_off],
    ids=[*(f.__name__ for f in HOW), "closed", "dropped", "broken_off"],
)
def test_an_async_stream_cut_short_keeps_what_was_said(store: HistoryStore, session: str, cut: Cut) -> None:
    stuck = Stuck()
    store.append(session, [HumanMessage("q"), AIMessage("a")])
    asyncio.run(cut(store.with_history(stuck.runnable), config_of(session), stuck))  # type: ignore[arg-type]
    assert stuck.ended
    assert stored(store, session)[2:] == [("and so on", "interrupted"), ("half ", "interrupted")]
    assert len(store.turns(session)) == 2
    assert texts(store.load(session)) == ["q", "a", "and so on", "half "]


@pytest.mark.parametrize("how", HOW)
def test_an_ainvoke_cut_short_keeps_the_question(store: HistoryStore, session: str, how: Any) -> None:
    stuck = Stuck()
    asyncio.run(in_invoke(how)(store.with_history(stuck.runnable), config_of(session), stuck))  # type: ignore[arg-type]
    assert stored(store, session) == [("and so on", "interrupted")]
    assert len(store.turns(session)) == 1


@pytest.mark.parametrize("runnable", [Echo(), PROMPT | Echo(), PROMPT | Echo() | StrOutputParser()])
@pytest.mark.parametrize("drop", [False, True])
def test_a_sync_stream_cut_short_keeps_what_was_said(
    store: HistoryStore, session: str, runnable: Runnable[Any, Any], drop: bool
) -> None:
    keys = {} if isinstance(runnable, Echo) else IN["keys"]
    stream = store.with_history(runnable, **keys).stream({"input": "q"} if keys else "q", config_of(session))
    next(stream)
    if drop:
        del stream
        gc.collect()
    else:
        stream.close()  # type: ignore[attr-defined]
    assert stored(store, session) == [("q", "interrupted"), ("you ", "interrupted")]
    assert len(store.turns(session)) == 1


@pytest.mark.parametrize("mode", ["invoke", "stream"])
def test_the_keyboard_interrupts(store: HistoryStore, session: str, mode: str) -> None:
    def answer(messages: list[BaseMessage]) -> Iterator[str]:
        yield "half "
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store.with_history(RunnableLambda(answer)), mode, "q", config_of(session))
    said = [("half ", "interrupted")] if mode == "stream" else []
    assert stored(store, session) == [("q", "interrupted"), *said]


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_a_client_that_disconnects(store: HistoryStore, session: str, spec_version: str) -> None:
    """Starlette cancels the response with anyio or, from 2.4 on, sees sending fail. The test plays the server."""
    stuck = Stuck()
    gone = asyncio.Event()

    async def body() -> AsyncIterator[str]:
        async for chunk in store.with_history(stuck.runnable).astream("and so on", config_of(session)):
            yield chunk.text

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            gone.set()
            if spec_version == "2.4":
                raise OSError("the client is gone")

    async def serve() -> None:
        scope = {"type": "http", "asgi": {"spec_version": spec_version}}
        with contextlib.suppress(Exception):  # ClientDisconnect
            await StreamingResponse(body())(scope, receive, send)  # type: ignore[arg-type]
        gc.collect()
        await until(lambda: stuck.ended and store.messages(session).items)

    asyncio.run(serve())
    assert stored(store, session) == [("and so on", "interrupted"), ("half ", "interrupted")]
    assert len(store.turns(session)) == 1


# --- cancelled while it is being saved: the session is locked by another transaction, once the model has answered


async def saving(database: str) -> None:
    """Wait until an append waits for the lock."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        for _ in range(500):
            found = await conn.execute(
                "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%chat_history_append%'"
                " and pid <> pg_backend_pid()"
            )
            if await found.fetchone():
                return
            await asyncio.sleep(0.01)
    raise AssertionError("nothing waits")


def answer_and_lock(text: str, conn: psycopg.Connection[Any], session: str) -> Runnable[Any, Any]:
    async def answer(messages: list[BaseMessage]) -> str:
        conn.execute("select from chat_history_sessions where session_id = %s for update", [session])
        return text

    return RunnableLambda(answer)


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("how", ["task", "scope", "loop"])
def test_a_save_under_way_is_not_cancelled(database: str, session: str, how: str, mode: str) -> None:
    with HistoryStore.from_postgres(database) as store:
        store.append(session, [HumanMessage("q"), AIMessage("a")])
        conn = psycopg.connect(database)
        chain = store.with_history(answer_and_lock("whole", conn, session))

        async def turn() -> None:
            config = config_of(session)
            await (chain.ainvoke("and so on", config) if mode == "ainvoke" else consume(chain, config))

        async def main(release: threading.Timer) -> None:
            if how == "scope":
                async with anyio.create_task_group() as group:
                    group.start_soon(turn)
                    await saving(database)
                    release.start()
                    group.cancel_scope.cancel()
                return
            task = asyncio.ensure_future(turn())
            await saving(database)
            release.start()
            if how == "loop":
                left.append(task)  # asyncio.run cancels all that is left, the save's own task too
                return
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        with conn:
            release = threading.Timer(0.3, conn.rollback)
            asyncio.run(main(release))
            release.join()
        assert stored(store, session)[2:] == [("and so on", "completed"), ("whole", "completed")]


def test_a_save_that_fails_after_the_cancellation_is_told(database: str, session: str) -> None:
    told: list[tuple[HistoryError, list[str]]] = []

    def on_error(error: HistoryError, messages: Sequence[BaseMessage]) -> None:
        told.append((error, texts(messages)))

    with HistoryStore.from_postgres(database, deadline=1, on_error=on_error) as store:
        store.append(session, [HumanMessage("q"), AIMessage("a")])

        async def main() -> None:
            with psycopg.connect(database) as conn:
                chain = store.with_history(answer_and_lock("lost", conn, session))
                task = asyncio.ensure_future(chain.ainvoke("q", config_of(session)))
                await saving(database)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(main())
        ((error, messages),) = told
        assert isinstance(error, Unavailable)
        assert messages == ["q", "lost"]


# --- cut off while the conversation is loaded or the turn is saved


@pytest.mark.parametrize("committed", [False, True])
def test_a_turn_cut_off_while_it_is_loaded(store: HistoryStore, session: str, committed: bool) -> None:
    """The question is on its way: where it has arrived, its turn is marked; where it has not, there is none."""
    told: list[HistoryError] = []
    execute = store.aexecute

    async def cut_off(call: Any) -> Any:
        if call.function.name != "chat_history_begin":
            return await execute(call)
        if committed:
            await execute(call)
        raise asyncio.CancelledError

    view = store.within(on_error=lambda error, messages: told.append(error))
    view.aexecute = cut_off  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(view.with_history(RunnableLambda(lambda _: "never")).ainvoke("q", config_of(session)))
    assert stored(store, session) == ([("q", "interrupted")] if committed else [])
    assert told == []


@pytest.mark.parametrize("first_try_stores", [False, True])
@pytest.mark.parametrize("ends", ["well", "badly"])
def test_the_keyboard_does_not_keep_a_turn_from_being_saved(
    store: HistoryStore, session: str, first_try_stores: bool, ends: str
) -> None:
    execute, tries = store.execute, list[str]()

    def interrupted_once(call: Any) -> Any:
        tries.append(call.function.name)
        if tries.count("chat_history_append") != 1 or call.function.name != "chat_history_append":
            return execute(call)
        if first_try_stores:
            execute(call)
        raise KeyboardInterrupt

    def answer(_: Any) -> str:
        if ends == "badly":
            raise ValueError("no answer")
        return "answer"

    view = store.within()
    view.execute = interrupted_once  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        view.with_history(RunnableLambda(answer)).invoke("q", config_of(session))
    expected = [("q", "completed"), ("answer", "completed")] if ends == "well" else [("q", "failed")]
    assert stored(store, session) == expected


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_chunks_whose_metadata_does_not_go_together(store: HistoryStore, session: str, mode: str, cut: bool) -> None:
    def chunks(_: Any) -> Iterator[AIMessageChunk]:
        for word, seconds in (("half ", 0.1), ("and ", 0.2), ("half", 0.3)):
            yield AIMessageChunk(content=word, response_metadata={"seconds": seconds})

    async def achunks(_: Any) -> AsyncIterator[AIMessageChunk]:
        for chunk in chunks(_):
            yield chunk

    bot = store.with_history(RunnableLambda(chunks, achunks))

    async def consume_async() -> None:
        stream = bot.astream("q", config_of(session))
        async for _ in stream:
            if cut:
                break
        await stream.aclose()  # type: ignore[attr-defined]

    if mode == "astream":
        asyncio.run(consume_async())
    else:
        stream = bot.stream("q", config_of(session))
        for _ in stream:
            if cut:
                break
        stream.close()  # type: ignore[attr-defined]
    status = "interrupted" if cut else "completed"
    assert stored(store, session) == [("q", status), ("half " if cut else "half and half", status)]
    if not cut:
        assert store.load(session)[-1].response_metadata == {"seconds": 0.3}
