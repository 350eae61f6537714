"""A turn under way: what will be known of it when it ends."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.utils.uuid import uuid7

from ..core.observed import ModelRun, Observed, usage_fields, with_usage
from ..records import Status, Turn
from .audit import TurnAudit
from .trace import Trace, climb, current_trace, join_thread, traced_models

logger: Final = logging.getLogger(__name__)


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
        """Take the running trace, and the audit that observes it; put its root into the session's thread."""
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
                self._run, root = climb(run_map, run_id)
                if root is not None and session_id is not None:
                    join_thread(root, session_id)

    def observed(self) -> Observed:
        """What was done for the turn so far, as an audit has observed it, else as the trace has it."""
        try:
            if self.audit is not None:
                return self.audit.observed(self._turn, self._started)
            return Observed() if self._run is None else traced_models(self._run)
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
