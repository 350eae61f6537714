"""What was done for a turn: its model runs, what retrievers found, which tools ran, and how long each took.

`TurnAudit` hears it from LangChain's callbacks, with tracing on or off, sync and async, streamed or not. `with_history`
attaches one to each turn. Where there is none, `turns.py` reads the model runs from the LangSmith trace.

A turn row holds it so:

=========================================  =====================================================================
`documents`                                `[{"id", "source", "score", "excerpt", "retriever"}]`, in the order found;
                                           with `content` in place of the excerpt where that was asked for
`token_details["input_token_details"]`     cache and audio tokens; `output_token_details` reasoning tokens, say
`token_details["unreported_runs"]`         how many model runs told no tokens; left out where all did
`metadata["retrievers"]`                   `[{"name", "query", "documents": how many, "seconds"}]`; `error`, if any
`metadata["tools"]`                        `[{"name", "seconds"}]`; `tool_call_id` and `error` where there is one
`metadata["first_token_seconds"]`          from the turn's start to the first token of a streamed answer
`metadata["model_runs"]`                   how many chat-model runs there were, where not one
=========================================  =====================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult

from ..core import values
from ..errors import InvalidInput

EXCERPT: Final = 200  # characters
_TEXT: Final = 1000  # characters, of a query, a name or an error
_MAX_ROOTS: Final = 1000
_WRAPPER: Final = "RunnableWithMessageHistory"
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
        """Take what it said, and what its message tells, which in models of one's own may be anything."""
        self.said = None if text is None else _digest(text)
        self.response_metadata = response_metadata if isinstance(response_metadata, Mapping) else {}
        self.model = _model(self.response_metadata) or self.model
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
        """The fields of a `Turn` that this tells; what is unknown is left out.

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


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _that_said(text: str | None, runs: Iterable[ModelRun]) -> list[ModelRun]:
    """The runs whose text is just this one. A string itself does not tell which model it is from."""
    if text is None:
        return []
    digest = _digest(text)
    return [run for run in runs if run.said == digest]


def _add_usage(found: dict[str, Any], usage: Mapping[str, Any]) -> None:
    for name in _COUNTS:
        _add(found, name, usage)
    for kind in _DETAILS:
        if isinstance(told := usage.get(kind), Mapping):
            details = found.get("token_details", {}).get(kind, {})
            for name in told:
                _add(details, name, told)
            if details:
                found.setdefault("token_details", {})[kind] = details


def _add(sums: dict[str, Any], name: str, told: Mapping[str, Any]) -> None:
    """Add a count, if it is one: what models of one's own tell may be anything, and the database refuses the turn."""
    if type(count := told.get(name)) is int and 0 <= count <= _MAX_COUNT:
        sums[name] = min(sums.get(name, 0) + count, _MAX_COUNT)


def usage_fields(messages: Iterable[BaseMessage]) -> dict[str, Any]:
    """Model and tokens as a turn's own AI messages tell them: the source where no model run was seen."""
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
    told: dict[str, Any] = {}
    with contextlib.suppress(values.Unencodable):  # the answer alone can be stored
        values.to_json(dict(run.response_metadata), "response_metadata")
        told["response_metadata"] = dict(run.response_metadata)
    if len(run.usage) == 1:
        usage: dict[str, Any] = {}
        _add_usage(usage, run.usage[0])
        details = usage.pop("token_details", {})
        if len(usage) == len(_COUNTS):
            told["usage_metadata"] = usage | details
    return [*messages[:-1], last.model_copy(update=told)]


def _model(response_metadata: Mapping[str, Any]) -> str | None:
    found = response_metadata.get("model_name") or response_metadata.get("model")
    return found if isinstance(found, str) else None


# --- from callbacks -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    parent: UUID | None
    root: UUID
    name: str
    started: float
    query: str = ""
    call_id: str | None = None
    model: ModelRun | None = None
    streams: bool = False


@dataclass(slots=True)
class _Root:
    runs: dict[UUID, _Run] = field(default_factory=dict)
    open: set[UUID] = field(default_factory=set)  # of the runs, those that have not ended
    done: list[tuple[UUID, str, Any]] = field(default_factory=list)  # run, list of Observed, what goes there

    def within(self, run_id: UUID, turn: UUID | None) -> bool:
        above: UUID | None = run_id
        while turn is not None and above is not None and above != turn:
            above = self.runs[above].parent if above in self.runs else None
        return turn is None or above is not None

    def observed(self, turn: UUID | None, started: float | None = None) -> Observed:
        found = Observed()
        if started is None:
            started = min((run.started for run in self.runs.values()), default=0)
        for run_id, kind, what in list(self.done):
            if self.within(run_id, turn):
                if kind == "first_token":
                    if found.first_token_seconds is None:
                        found.first_token_seconds = round(what - started, 6)
                else:
                    getattr(found, kind).extend(what)
        return found


class TurnAudit(BaseCallbackHandler):
    """Hears what is done for each turn. One object may serve any number of turns, at once too.

    `with_history` attaches one by itself. Under `RunnableWithMessageHistory` pass it in `callbacks`; the history finds
    it there. On its own, `last` tells of the call that ended last::

        audit = TurnAudit()
        chain.invoke("Who wrote it?", {"callbacks": [audit]})
        audit.last.documents

    Args:
        content: Record the whole text of documents instead of an excerpt.
        excerpt: Characters of a document's text to record.
    """

    run_inline = True  # in async runs too, so that nothing is heard after the turn was written down

    def __init__(self, *, content: bool = False, excerpt: int = EXCERPT) -> None:
        if type(excerpt) is not int or excerpt < 0:
            raise InvalidInput("excerpt must be a whole number of characters.")
        self.content = content
        self.excerpt = excerpt
        self.last: Observed | None = None
        """What was done in the call that ended last: the outermost of those that it hears."""
        self.keeps = False  # whether what is observed stays after its calls have ended: for a handler of one turn alone
        self._lock = threading.Lock()
        self._roots: OrderedDict[UUID, _Root] = OrderedDict()
        self._root_of: dict[UUID, UUID] = {}

    def turn_of(self, run_id: UUID | None) -> tuple[UUID, UUID] | None:
        """The root and the turn that a run is part of: the `RunnableWithMessageHistory` above it, else the root."""
        with self._lock:
            root_id = self._root_of.get(run_id) if run_id else None
            if root_id is None or run_id is None:
                return None
            root, above = self._roots[root_id], run_id
            while (run := root.runs.get(above)) is not None:
                if run.name == _WRAPPER or run.parent is None:
                    return root_id, above
                above = run.parent
            return root_id, root_id

    def observed(self, turn: tuple[UUID, UUID] | None = None, started: float | None = None) -> Observed:
        """What was done so far: for the turn that `turn_of` names, else in all calls that have not ended.

        Args:
            started: When the turn started, as `time.monotonic()` tells it.
        """
        with self._lock:
            if turn is not None:
                root = self._roots.get(turn[0])
                # A turn that is its root has all that is in it, also what other parents began.
                return Observed() if root is None else root.observed(None if turn[0] == turn[1] else turn[1], started)
            found = Observed()
            for root in self._roots.values():
                part = root.observed(None, started)
                for name in ("models", "retrievers", "documents", "tools"):
                    getattr(found, name).extend(getattr(part, name))
                found.first_token_seconds = found.first_token_seconds or part.first_token_seconds
            return found

    # --- runs

    def _begin(self, run_id: UUID, parent: UUID | None, name: Any, **more: Any) -> _Run:
        with self._lock:
            # Attached below the outermost run, the first parent that is named stands for the root.
            root_id = self._root_of.get(parent, parent) if parent is not None else run_id
            root = self._roots.setdefault(root_id, _Root())
            root.open.add(run_id)
            run = root.runs[run_id] = _Run(parent, root_id, str(name or "")[:_TEXT], time.monotonic(), **more)
            self._root_of[run_id] = root_id
            if len(self._roots) > _MAX_ROOTS:  # calls that never end, dropped generators say
                self._drop(next(iter(self._roots)))
            if run.model is not None:
                root.done.append((run_id, "models", [run.model]))
            return run

    def _run(self, run_id: UUID) -> _Run | None:
        root = self._roots.get(self._root_of.get(run_id, run_id))
        return None if root is None else root.runs.get(run_id)

    def _note(self, run_id: UUID, kind: str, what: Any) -> None:
        with self._lock:
            if (run := self._run(run_id)) is not None:
                self._roots[run.root].done.append((run_id, kind, what))

    def _end(self, run_id: UUID) -> None:
        with self._lock:
            if (run := self._run(run_id)) is None:
                return
            root = self._roots[run.root]
            root.open.discard(run_id)
            if run_id == run.root or not root.open:  # below the outermost run, that one's end is not heard
                self.last = root.observed(None)
                if not self.keeps:
                    self._drop(run.root)

    def _drop(self, root_id: UUID) -> None:
        for run_id in self._roots.pop(root_id).runs:
            self._root_of.pop(run_id, None)

    def _seconds(self, run: _Run) -> float:
        return round(time.monotonic() - run.started, 6)

    # --- chains

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kw: Any
    ) -> None:
        self._begin(run_id, parent_run_id, _name(serialized, kw))

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kw: Any) -> None:
        self._end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kw: Any) -> None:
        self._end(run_id)

    # --- models

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kw: Any
    ) -> None:
        named = (kw.get("metadata") or {}).get("ls_model_name")
        run = ModelRun(named if isinstance(named, str) else None)
        self._begin(run_id, parent_run_id, _name(serialized, kw), model=run)

    def on_llm_start(
        self, serialized: Any, prompts: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kw: Any
    ) -> None:
        self._begin(run_id, parent_run_id, _name(serialized, kw), model=ModelRun())

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **kw: Any) -> None:
        message = getattr(chunk, "message", None)
        if token or getattr(message, "content", None) or getattr(message, "tool_call_chunks", None):
            with self._lock:
                if (run := self._run(run_id)) is not None and run.query != "streams":
                    run.query = "streams"
                    self._roots[run.root].done.append((run_id, "first_token", time.monotonic()))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kw: Any) -> None:
        with self._lock:
            run = self._run(run_id)
            if run is not None and run.model is not None:
                for generation in (generation for part in response.generations for generation in part):
                    message = getattr(generation, "message", None)  # of a chat model
                    told = (getattr(message, name, None) for name in ("response_metadata", "usage_metadata"))
                    run.model.take(generation.text, *told)
        self._end(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kw: Any) -> None:
        self._end(run_id)

    # --- retrievers

    def on_retriever_start(
        self, serialized: Any, query: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kw: Any
    ) -> None:
        self._begin(run_id, parent_run_id, _name(serialized, kw), query=str(query)[:_TEXT])

    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kw: Any) -> None:
        if (run := self._run(run_id)) is not None:
            self._note(run_id, "documents", [self._document(d, run.name) for d in documents])
            self._retrieved(run_id, run, documents=len(documents))

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kw: Any) -> None:
        if (run := self._run(run_id)) is not None:
            self._retrieved(run_id, run, documents=0, error=_error(error))

    def _retrieved(self, run_id: UUID, run: _Run, **more: Any) -> None:
        self._note(
            run_id, "retrievers", [{"name": run.name, "query": run.query, **more, "seconds": self._seconds(run)}]
        )
        self._end(run_id)

    def _document(self, document: Document, retriever: str) -> dict[str, Any]:
        metadata = document.metadata or {}
        score = next((metadata[k] for k in ("relevance_score", "score", "similarity") if k in metadata), None)
        text = document.page_content
        found = {
            "id": _text(document.id if document.id is not None else metadata.get("id")),
            "source": _text(metadata.get("source")),
            "score": _number(score),
            "retriever": retriever,
        }
        return {**found, "content": text} if self.content else {**found, "excerpt": text[: self.excerpt]}

    # --- tools

    def on_tool_start(
        self, serialized: Any, input_str: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kw: Any
    ) -> None:
        call_id = kw.get("tool_call_id")
        self._begin(run_id, parent_run_id, _name(serialized, kw), call_id=call_id if isinstance(call_id, str) else None)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kw: Any) -> None:
        call_id = getattr(output, "tool_call_id", None)
        self._used(run_id, call_id if isinstance(call_id, str) else None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kw: Any) -> None:
        self._used(run_id, None, error=_error(error))

    def _used(self, run_id: UUID, call_id: str | None, **more: Any) -> None:
        if (run := self._run(run_id)) is not None:
            told = {"name": run.name, "seconds": self._seconds(run), **more}
            if call_id := call_id or run.call_id:
                told["tool_call_id"] = call_id
            self._note(run_id, "tools", [told])
            self._end(run_id)


def _name(serialized: Any, kw: Mapping[str, Any]) -> str:
    name = kw.get("name")
    if not name and isinstance(serialized, dict):
        name = serialized.get("name") or (serialized.get("id") or [""])[-1]
    return str(name or "")


def _error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_TEXT]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:_TEXT]


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError):
        return None
