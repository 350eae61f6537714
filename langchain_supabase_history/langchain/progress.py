"""What is known of a turn when it ends: its LangSmith trace, its times, the model and the tokens.

Nothing here costs a round trip, and nothing here fails a turn: what cannot be found out is unknown.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.utils.uuid import uuid7

from ..records import Status, Turn
from .audit import ModelRun, Observed, TurnAudit, usage_fields, with_usage

logger = logging.getLogger(__name__)

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


@dataclass(slots=True)
class Progress:
    """A turn under way, from the reading of its history to the writing of its messages."""

    id: uuid.UUID = field(default_factory=lambda: uuid.UUID(int=uuid7().int))
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    trace: Trace = field(default_factory=Trace)
    audit: TurnAudit | None = None  # of this turn alone, if given; else one that the application has passed is found
    _started: float = field(default_factory=time.monotonic)
    _turn: tuple[uuid.UUID, uuid.UUID] | None = None  # of the audit: root and turn
    _run: Any = None  # of the tracer: the run that this turn is

    def __post_init__(self) -> None:
        if self.audit is not None:
            self.audit.keeps = True

    def note_trace(self, session_id: str | None = None) -> None:
        """Take the running trace, and whoever hears what is done in it; put its root into the session's thread."""
        if self.trace.trace_id is None:
            self.trace = current_trace()
        try:
            self._listen(session_id)
        except Exception as error:  # a turn is never lost because of tracing
            logger.debug("the turn's trace could not be read: %s", type(error).__name__)

    def _listen(self, session_id: str | None) -> None:
        config = var_child_runnable_config.get()
        manager = config.get("callbacks") if config else None
        run_id = getattr(manager, "parent_run_id", None)
        for handler in getattr(manager, "handlers", ()):
            if self.audit is None and isinstance(handler, TurnAudit) and (turn := handler.turn_of(run_id)):
                self.audit, self._turn = handler, turn
            run_map = getattr(handler, "run_map", None)
            if self._run is None and run_map and type(handler).__name__ == "LangChainTracer":
                self._run, root = _climb(run_map, run_id)
                if root is not None and session_id is not None:
                    _join_thread(root, session_id)

    def observed(self) -> Observed:
        """What was done for the turn so far, as an audit has heard it, else as the trace tells."""
        try:
            if self.audit is not None:
                return self.audit.observed(self._turn, self._started)
            return Observed() if self._run is None else _traced(self._run)
        except Exception as error:
            logger.debug("what was done in the turn could not be read: %s", type(error).__name__)
            return Observed()

    def answered(self) -> list[ModelRun]:
        """The model runs so far; one of them may have given the answer, of which a parser has made a string."""
        return self.observed().models

    def completed(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """The messages, with the model's usage and metadata on an answer that was a bare string. None is changed."""
        return with_usage(messages, self.answered())

    def turn(self, messages: Sequence[BaseMessage], status: Status = "completed", error: str | None = None) -> Turn:
        """The turn as it stands with these messages."""
        answer = messages[-1] if messages else None
        seen = self.observed().fields(answer.text if isinstance(answer, AIMessage) else None)
        metadata = seen.pop("metadata", {})
        if not any(name in seen for name in ("input_tokens", "output_tokens", "total_tokens")):
            seen |= usage_fields(messages)
        if self.trace.started_at is not None:
            metadata["trace_started_at"] = self.trace.started_at
        # A root run's id is its trace's.
        return Turn(
            id=self.id,
            status=status,
            trace_id=self.trace.trace_id,
            run_id=self.trace.trace_id,
            project=self.trace.project,
            started_at=self.started_at,
            ended_at=datetime.now(UTC),
            error=error,
            metadata=metadata,
            **seen,
        )


def _climb(run_map: dict[str, Any], run_id: uuid.UUID | None) -> tuple[Any, Any]:
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


def _traced(run: Any) -> Observed:
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
                told = (generation.get("message") or {}).get("kwargs") or {}
                model.take(generation.get("text") or "", told.get("response_metadata"), told.get("usage_metadata"))
        found.models.append(model)
    return found


_threads: OrderedDict[uuid.UUID, str | None] = OrderedDict()  # by root run: the one session that it was marked with
_threads_lock = threading.Lock()
_MAX_THREADS: Final = 1000


def _join_thread(root: Any, session_id: str) -> None:
    """Put a trace into the session's thread, unless the application has named one, or the trace is of several sessions.

    `configurable` has done so already, except in `batch` of `RunnableWithMessageHistory` and below a root that the
    application's own code began. What is added here is sent when the root run ends; a second session's turn takes it
    away before that.
    """
    told = (root.extra or {}).get("metadata") or {}
    with _threads_lock:
        if root.id not in _threads:
            if not any(told.get(key) for key in THREAD_KEYS):
                root.add_metadata({"session_id": session_id})
                _threads[root.id] = session_id
                if len(_threads) > _MAX_THREADS:  # their roots have ended long since
                    _threads.popitem(last=False)
        elif _threads[root.id] not in (None, session_id):
            if told.get("session_id") == _threads[root.id]:
                del told["session_id"]
            _threads[root.id] = None


def is_cut(message: BaseMessage) -> bool:
    """Whether a streamed answer ends before its last chunk."""
    return isinstance(message, AIMessageChunk) and message.chunk_position != "last"
