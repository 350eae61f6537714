"""What is known of a turn when it ends: its LangSmith trace, its times, the model and the tokens."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.utils.uuid import uuid7

from .records import Status, Turn


@dataclass(frozen=True, slots=True)
class Trace:
    """The LangSmith trace that is running: its id, its root run, and the project's name. None where tracing is off."""

    trace_id: str | None = None
    project: str | None = None


def current_trace() -> Trace:
    """The trace of the code that is running. Costs nothing where LangSmith is not in use, and never fails."""
    helpers = sys.modules.get("langsmith.run_helpers")
    if helpers is None:
        return Trace()
    try:
        run = helpers.get_current_run_tree()
        return Trace() if run is None else Trace(str(run.trace_id), run.session_name)
    except Exception:  # a turn is never lost because of tracing
        return Trace()


@dataclass(slots=True)
class Progress:
    """A turn under way, from the reading of its history to the writing of its messages."""

    id: uuid.UUID = field(default_factory=lambda: uuid.UUID(int=uuid7().int))
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    trace: Trace = field(default_factory=current_trace)

    def note_trace(self) -> None:
        """Take the running trace, if there was none when the turn began."""
        if self.trace.trace_id is None:
            self.trace = current_trace()

    def turn(self, messages: Sequence[BaseMessage], status: Status = "completed", error: str | None = None) -> Turn:
        """The turn as it stands with these messages."""
        # A root run's id is its trace's.
        return Turn(
            id=self.id, status=status, trace_id=self.trace.trace_id, run_id=self.trace.trace_id,
            project=self.trace.project, started_at=self.started_at, ended_at=datetime.now(UTC), error=error,
            **model_usage(messages),
        )  # fmt: skip


def model_usage(messages: Sequence[BaseMessage]) -> dict[str, Any]:
    """Model and token counts of the AI messages of a turn; what no message tells is left out."""
    found: dict[str, Any] = {}
    for message in messages:
        if not isinstance(message, AIMessage):
            continue
        model = message.response_metadata.get("model_name") or message.response_metadata.get("model")
        if isinstance(model, str):
            found["model"] = model
        usage: dict[str, Any] = dict(message.usage_metadata or {})
        for name in ("input_tokens", "output_tokens", "total_tokens"):
            count = usage.get(name)
            if isinstance(count, int):
                found[name] = found.get(name, 0) + count
        for kind in ("input_token_details", "output_token_details"):
            for name, count in (usage.get(kind) or {}).items():
                if isinstance(count, int):
                    details = found.setdefault("token_details", {}).setdefault(kind, {})
                    details[name] = details.get(name, 0) + count
    return found


def is_cut(message: BaseMessage) -> bool:
    """Whether a streamed answer ends before its last chunk."""
    return isinstance(message, AIMessageChunk) and message.chunk_position != "last"
