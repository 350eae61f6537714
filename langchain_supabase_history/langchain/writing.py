"""Writing down how a turn ended, whatever happens meanwhile: Ctrl-C, a cancelled task, a loop that ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio

from ..core.call import Call
from ..errors import Conflict
from ..operations.base import Operations

Report = Callable[[BaseException, Exception], None]
"""Called with what ended the turn and why the turn could not be written down."""


def execute_to_its_end(store: Operations, call: Call[Any], report: Report) -> None:
    """Execute a call to its end, also where the keyboard interrupts it; then be interrupted."""
    try:
        store.execute(call)
    except Exception:
        raise
    except BaseException as error:
        try:
            store.execute(_again(call))
        except Exception as unsaved:
            report(error, unsaved)
        raise


async def aexecute_to_its_end(store: Operations, call: Call[Any], report: Report) -> None:
    """Execute a call to its end, whoever cancels meanwhile (anyio does at every await); then be cancelled."""
    cancelled: asyncio.CancelledError | None = None
    # A loop that ends cancels every task, the first of these too.
    with anyio.CancelScope(shield=True):
        for attempt in (call, _again(call)):
            task = asyncio.ensure_future(store.aexecute(attempt))
            while not task.done():
                try:
                    await asyncio.shield(task)
                except asyncio.CancelledError as error:
                    cancelled = error
                except Exception:  # the task's own, read below
                    break
            if not task.cancelled():
                break
    if cancelled is None:
        task.result()
        return
    if not task.cancelled() and isinstance(unsaved := task.exception(), Exception):
        report(cancelled, unsaved)
    raise cancelled


def store_to_its_end(
    store: Operations, call: Call[Any], report: Report, otherwise: Callable[[], Call[Any] | None]
) -> None:
    """Execute the call that ends a turn, or, where it is in conflict with what is stored, the other one, if any."""
    try:
        execute_to_its_end(store, call, report)
    except Conflict:
        if (other := otherwise()) is None:
            raise
        execute_to_its_end(store, other, report)


async def astore_to_its_end(
    store: Operations, call: Call[Any], report: Report, otherwise: Callable[[], Call[Any] | None]
) -> None:
    """Async version of `store_to_its_end`."""
    try:
        await aexecute_to_its_end(store, call, report)
    except Conflict:
        if (other := otherwise()) is None:
            raise
        await aexecute_to_its_end(store, other, report)


def _again(call: Call[Any]) -> Call[Any]:
    """The same call after a try that was cut off. It may be stored by then; the ids show it."""
    return replace(call, args=call.arguments(replay=True))
