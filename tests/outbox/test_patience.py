"""Nobody waits for longer than need be: cancelled appends, deadlines, other sessions."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_supabase_history import (
    StoreClosed,
    Unavailable,
)
from tests.outbox.helpers import QA, cut, eventually, outbox_of, texts
from tests.proxy import Proxy


@pytest.mark.parametrize("is_async", [False, True])
def test_while_the_database_is_away_appends_are_kept_at_once(
    wire: Proxy, make: Any, session: str, is_async: bool
) -> None:
    store = make(deadline=4)
    with cut(wire):
        store.append(session, [HumanMessage("0")])
        began = time.monotonic()

        async def main() -> None:
            await asyncio.gather(*(store.aappend(session, [HumanMessage("n")]) for n in range(20)))

        if is_async:
            asyncio.run(main())
        else:
            threads = [threading.Thread(target=store.append, args=(session, QA[:1])) for n in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert time.monotonic() - began < 3.9, "nobody waited for the deadline"
    store.flush()
    assert len(store.load(session)) == 21


def test_whoever_waits_for_a_session_shares_one_try(wire: Proxy, make: Any, session: str) -> None:
    store = make(deadline=3)
    with cut(wire):
        store.append(session, QA)

        async def main() -> float:
            loop = asyncio.get_running_loop()
            loads = [asyncio.ensure_future(store.aload(session)) for n in range(40)]
            await asyncio.sleep(0.2)
            began = loop.time()
            await asyncio.to_thread(lambda: None)
            took = loop.time() - began
            assert {type(e) for e in await asyncio.gather(*loads, return_exceptions=True)} == {Unavailable}
            return took

        began = time.monotonic()
        assert asyncio.run(main()) < 2, "the application's own worker threads are free"
        assert time.monotonic() - began < 6


def test_a_long_backlog_is_in_nobody_elses_way(wire: Proxy, make: Any, session: str) -> None:
    long, short = f"{session}-long", f"{session}-short"
    with cut(wire), make() as away:
        for n in range(60):
            away.append(long, [HumanMessage(str(n))])
        away.append(short, [HumanMessage("0")])
    store = make()
    wire.delay = 0.1  # the backlog takes twelve seconds

    def flush() -> None:
        with contextlib.suppress(StoreClosed):
            store.flush()

    flushing = threading.Thread(target=flush)
    flushing.start()
    eventually(lambda: ("", long) in outbox_of(store).deliveries)
    began = time.monotonic()
    assert store.load(short) == [HumanMessage("0")]
    store.append(short, [HumanMessage("1")])
    assert time.monotonic() - began < 5
    assert any(w.session_id == long for w in store.waiting())
    began = time.monotonic()
    outbox_of(store).close()
    assert time.monotonic() - began < 5, "what is under way ends, not the backlog"
    flushing.join()
    wire.delay = 0
    assert store.waiting()
    store.flush()
    assert texts(store.load(long)) == [str(n) for n in range(60)]
    assert texts(store.load(short)) == ["0", "1"]


def test_a_sync_call_on_the_loop_of_an_async_erasure_ends(
    make: Any, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(deadline=3)
    aexecute = store.driver.aexecute

    async def slowly(call: Any, identity: Any = None) -> Any:
        await asyncio.sleep(0.2)
        return await aexecute(call, identity)

    monkeypatch.setattr(store.driver, "aexecute", slowly)

    async def main() -> None:
        clear = asyncio.ensure_future(store.aclear(session))
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable, match="still being sent"):
            store.load(session)
        assert await clear == 0

    asyncio.run(main())
