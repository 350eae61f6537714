"""What models, retrievers and tools reported of themselves during a turn, and what a turn's row keeps of it.

=========================================  =====================================================================
`documents`                                `[{"id", "source", "score", "excerpt", "retriever"}]`, in the order found;
                                           with `content` in place of the excerpt where that was asked for
`token_details["input_token_details"]`     cache and audio tokens; `output_token_details` reasoning tokens, say
`token_details["unreported_runs"]`         how many model runs reported no tokens; left out where all did
`metadata["retrievers"]`                   `[{"name", "query", "documents": how many, "seconds"}]`; `error`, if any
`metadata["tools"]`                        `[{"name", "seconds"}]`; `tool_call_id` and `error` where there is one
`metadata["first_token_seconds"]`          from the turn's start to the first token of a streamed answer
`metadata["model_runs"]`                   how many chat-model runs there were, where not one
=========================================  =====================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage

from . import values

_COUNTS: Final = ("input_tokens", "output_tokens", "total_tokens")
_DETAILS: Final = ("input_token_details", "output_token_details")
_MAX_COUNT: Final = 2**53 - 1  # what every reader of JSON takes for a whole number


@dataclass(slots=True)
class ModelRun:
    """One run of a chat model: what it said of itself when it ended. A run that did not end has no usage."""

    model: str | None = None
    usage: list[Mapping[str, Any]] = field(default_factory=list)
    response_metadata: Mapping[str, Any] = field(default_factory=dict)
    said: bytes | None = None  # the digest of its text, which may be long; None where it did not end

    def take(self, text: str | None, response_metadata: Any, usage: Any) -> None:
        """Take what it said, and what its message has, which in models of one's own may be anything."""
        self.said = None if text is None else digest(text)
        self.response_metadata = response_metadata if isinstance(response_metadata, Mapping) else {}
        self.model = model_name(self.response_metadata) or self.model
        if usage and isinstance(usage, Mapping):
            self.usage.append(usage)


@dataclass(slots=True)
class Observed:
    """All that was done for one turn, so far."""

    models: list[ModelRun] = field(default_factory=list)
    retrievers: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    first_token_seconds: float | None = None

    def fields(self, answer: str | None = None) -> dict[str, Any]:
        """The fields of a `Turn` that are known; what is unknown is left out.

        Args:
            answer: The turn's answer. The turn's model is the one that said just this, else the last.
        """
        found: dict[str, Any] = {}
        unreported = 0
        for run in [*self.models, *_that_said(answer, self.models)]:
            if run.model:
                found["model"] = run.model
        for run in self.models:
            unreported += not run.usage
            for usage in run.usage:
                _add_usage(found, usage)
        if unreported:
            found.setdefault("token_details", {})["unreported_runs"] = unreported
        if self.documents:
            found["documents"] = self.documents
        metadata: dict[str, Any] = {
            "retrievers": self.retrievers,
            "tools": self.tools,
            "first_token_seconds": self.first_token_seconds,
        }
        if len(self.models) > 1:
            metadata["model_runs"] = len(self.models)
        found["metadata"] = {name: value for name, value in metadata.items() if value not in (None, [])}
        return found


def digest(text: str) -> bytes:
    """What stands for a text that may be long."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _that_said(text: str | None, runs: Iterable[ModelRun]) -> list[ModelRun]:
    """The runs whose text is just this one. A string itself does not say which model it is from."""
    if text is None:
        return []
    wanted = digest(text)
    return [run for run in runs if run.said == wanted]


def _add_usage(found: dict[str, Any], usage: Mapping[str, Any]) -> None:
    for name in _COUNTS:
        _add(found, name, usage)
    for kind in _DETAILS:
        if isinstance(counts := usage.get(kind), Mapping):
            details = found.get("token_details", {}).get(kind, {})
            for name in counts:
                _add(details, name, counts)
            if details:
                found.setdefault("token_details", {})[kind] = details


def _add(sums: dict[str, Any], name: str, counts: Mapping[str, Any]) -> None:
    """Add a count, if it is one: what models of one's own report may be anything, and the database refuses the turn."""
    if type(count := counts.get(name)) is int and 0 <= count <= _MAX_COUNT:
        sums[name] = min(sums.get(name, 0) + count, _MAX_COUNT)


def usage_fields(messages: Iterable[BaseMessage]) -> dict[str, Any]:
    """Model and tokens as a turn's own AI messages have them: the source where no model run was seen."""
    runs: list[ModelRun] = []
    for message in messages:
        if isinstance(message, AIMessage):
            runs.append(ModelRun())
            runs[-1].take(None, message.response_metadata, message.usage_metadata)
    fields = Observed([run for run in runs if run.model or run.usage]).fields()
    (fields.get("token_details") or {}).pop("unreported_runs", None)  # messages need not come from a model
    return {name: value for name, value in fields.items() if value and name != "metadata"}


def with_usage(messages: Sequence[BaseMessage], runs: Sequence[ModelRun] | None) -> list[BaseMessage]:
    """The messages, the last with its model's usage and metadata if it was made of a bare string. None is changed.

    A chain may run several models, one after the other or at once: the answer is that run's which alone said just this.
    Where none did, or two, nothing is put on it.
    """
    last = messages[-1] if messages else None
    if type(last) is not AIMessage or last.usage_metadata or last.response_metadata:
        return list(messages)
    said_it = _that_said(last.text, runs or ())
    if len(said_it) != 1:
        return list(messages)
    (run,) = said_it
    known: dict[str, Any] = {}
    with contextlib.suppress(values.Unencodable):  # the answer alone can be stored
        values.to_json(dict(run.response_metadata), "response_metadata")
        known["response_metadata"] = dict(run.response_metadata)
    if len(run.usage) == 1:
        usage: dict[str, Any] = {}
        _add_usage(usage, run.usage[0])
        details = usage.pop("token_details", {})
        if len(usage) == len(_COUNTS):
            known["usage_metadata"] = usage | details
    return [*messages[:-1], last.model_copy(update=known)]


def model_name(response_metadata: Mapping[str, Any]) -> str | None:
    """The model that a message's metadata names."""
    found = response_metadata.get("model_name") or response_metadata.get("model")
    return found if isinstance(found, str) else None
