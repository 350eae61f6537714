"""What a test leaves behind that was not there before it: threads, tasks, child processes, listening sockets.

What is left behind works on during later tests: it draws random numbers, writes, holds a port or a connection. So does
another module in the place of `__main__`: a process that is spawned later begins by running it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Hashable, Iterator
from typing import Any

import psutil
import pytest

WAIT_SECONDS = 10.0
"""How long what is ending already may take: a thread whose pool was closed, a process that was terminated."""
UNJUDGED = ("app",)
"""Folders of tests that are not judged: the browser's event loop, which lives for the whole run, starts threads when it
needs them."""
NOT_OURS = "tracing_control_thread_func"
"""LangSmith's thread, which sleeps and tries again for longer than the wait; its client was closed."""
_POLL_SECONDS = 0.02

Found = dict[Hashable, str]


def _unfinished_tasks() -> list[asyncio.Task[Any]]:
    # asyncio.all_tasks() is of one loop, and the loops of threads have no register; this is that of all tasks.
    tasks: Any = getattr(asyncio.tasks, "_scheduled_tasks", None) or getattr(asyncio.tasks, "_all_tasks", ())
    found = [task for task in list(tasks) if not task.done() and not task.get_loop().is_closed()]
    # `wait_for` of Python 3.11 makes a task of what it waits for, each time. Who waits is found itself.
    return [task for task in found if "_release_waiter" not in repr(task)]


def running() -> Found:
    """All that runs now, by what tells it apart, with a text for people."""
    process = psutil.Process()
    found: Found = {
        thread: f"the thread {thread.name!r}" for thread in threading.enumerate() if NOT_OURS not in thread.name
    }
    found |= {id(task): f"the task {task!r:.200}" for task in _unfinished_tasks()}
    for child in process.children():
        with_name = f"the process {child.pid} ({child.name()})"
        if child.status() != psutil.STATUS_ZOMBIE:
            found[child.pid, child.create_time()] = with_name
    listening = [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    found["__main__", id(sys.modules["__main__"])] = f"another __main__, {sys.modules['__main__']!r}"
    return found | {("port", c.laddr.port): f"a server on port {c.laddr.port}" for c in listening}


def left_behind(known: Found, seconds: float = WAIT_SECONDS) -> list[str]:
    """What runs and is not known, once what is ending has ended."""
    until = time.monotonic() + seconds
    while new := {key: text for key, text in running().items() if key not in known}:
        if time.monotonic() > until:
            return list(new.values())
        gc.collect()  # what nobody holds any more may stop then
        time.sleep(_POLL_SECONDS)
    return []


_long_lived: Found = {}


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
    """What the fixtures of a module or of the whole run start may outlive a test."""
    if fixturedef.scope == "function":
        return (yield)
    before = running()
    try:
        return (yield)
    finally:
        _long_lived.update({key: text for key, text in running().items() if key not in before})


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a thread, a task, a process or a server behind. Long tests of faults are not judged yet: after a
    thousand cut connections some thread or other takes longer to end than the wait."""
    if request.path.parent.name in UNJUDGED or request.node.get_closest_marker("soak"):
        yield
        return
    before = running()
    yield
    if left := left_behind(before | _long_lived):
        pytest.fail(f"The test left behind {', '.join(left)}.")
