"""The LangSmith trace of the code that is running, read from what LangChain's tracer has in memory.

Nothing here costs a round trip, and nothing here fails a turn: what cannot be found out is unknown.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ..core.observed import ModelRun, Observed

# By any of these LangSmith groups root runs into a thread.
THREAD_KEYS: Final = ("session_id", "thread_id", "conversation_id")


@dataclass(frozen=True, slots=True)
class Trace:
    """The LangSmith trace that is running: its id, the project's name, its root's start. None without tracing."""

    trace_id: str | None = None
    project: str | None = None
    started_at: str | None = None


def current_trace() -> Trace:
    """The trace of the code that is running. Costs nothing where LangSmith is not in use, and never fails."""
    run = _current_run()
    if run is None:
        return Trace()
    try:
        return Trace(str(run.trace_id), run.session_name, _started_at(run.dotted_order))
    except Exception:  # a turn is never lost because of tracing
        return Trace()


def _current_run() -> Any:
    helpers = sys.modules.get("langsmith.run_helpers")
    if helpers is None:
        return None
    try:
        run = helpers.get_current_run_tree()
        return None if run is None or (run.extra or {}).get("__disabled") else run
    except Exception:
        return None


def _started_at(dotted_order: str) -> str:
    """The root run's start: the head of the dotted order, 20261124T040824123456Z and the root's id."""
    return datetime.strptime(dotted_order[:22], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC).isoformat()


def climb(run_map: dict[str, Any], run_id: uuid.UUID | None) -> tuple[Any, Any]:
    """From a tracer's run up: the `RunnableWithMessageHistory` above it, else the root; and the root."""
    wrapper, run = None, run_map.get(str(run_id))
    while run is not None:
        if wrapper is None and run.name == "RunnableWithMessageHistory":
            wrapper = run
        above = run_map.get(str(run.parent_run_id)) if run.parent_run_id else None
        above = above or run.parent_run  # of a trace that the application's own code began
        if above is None:
            return wrapper or run, run
        run = above
    return None, None


def traced_models(run: Any) -> Observed:
    """The model runs below a run of a LangChain tracer, which holds its tree in memory until it ends."""
    found = Observed()
    below = [run]
    while below:
        current = below.pop()
        below.extend(reversed(current.child_runs))
        if current.run_type != "llm":
            continue
        named = ((current.extra or {}).get("metadata") or {}).get("ls_model_name")
        model = ModelRun(named if isinstance(named, str) else None)
        for generations in (current.outputs or {}).get("generations") or []:
            for generation in generations:
                fields = (generation.get("message") or {}).get("kwargs") or {}
                model.take(generation.get("text") or "", fields.get("response_metadata"), fields.get("usage_metadata"))
        found.models.append(model)
    return found


_threads: OrderedDict[uuid.UUID, str | None] = OrderedDict()  # by root run: the one session that it was marked with
_threads_lock = threading.Lock()
_MAX_THREADS: Final = 1000


def join_thread(root: Any, session_id: str) -> None:
    """Put a trace into the session's thread, unless the application has named one, or the trace is of several sessions.

    `configurable` has done so already, except in `batch` of `RunnableWithMessageHistory` and below a root that the
    application's own code began. What is added here is sent when the root run ends; a second session's turn takes it
    away before that.
    """
    metadata = (root.extra or {}).get("metadata") or {}
    with _threads_lock:
        if root.id not in _threads:
            if not any(metadata.get(key) for key in THREAD_KEYS):
                root.add_metadata({"session_id": session_id})
                _threads[root.id] = session_id
                if len(_threads) > _MAX_THREADS:  # their roots have ended long since
                    _threads.popitem(last=False)
        elif _threads[root.id] not in (None, session_id):
            if metadata.get("session_id") == _threads[root.id]:
                del metadata["session_id"]
            _threads[root.id] = None
