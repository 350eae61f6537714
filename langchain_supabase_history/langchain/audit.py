"""`TurnAudit`: observes what is done for a turn, through LangChain's callbacks.

With tracing on or off, sync and async, streamed or not. `with_history` attaches one to each turn. Where there is none,
`trace.py` reads the model runs from the LangSmith trace. `core/observed.py` says what a turn's row keeps of it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.outputs import LLMResult

from ..core.observed import ModelRun, Observed
from ..errors import InvalidInput

EXCERPT: Final = 200  # characters
_TEXT: Final = 1000  # characters, of a query, a name or an error
_MAX_ROOTS: Final = 1000
_WRAPPER: Final = "RunnableWithMessageHistory"


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
    it there. On its own, `last` is the call that ended last::

        audit = TurnAudit()
        chain.invoke("Who wrote it?", {"callbacks": [audit]})
        audit.last.documents

    Args:
        content: Record the whole text of documents instead of an excerpt.
        excerpt: Characters of a document's text to record.
    """

    run_inline = True  # in async runs too, so that nothing is observed after the turn was stored

    def __init__(self, *, content: bool = False, excerpt: int = EXCERPT) -> None:
        if type(excerpt) is not int or excerpt < 0:
            raise InvalidInput("excerpt must be a whole number of characters.")
        self.content = content
        self.excerpt = excerpt
        self.last: Observed | None = None
        """What was done in the call that ended last: the outermost of those that it observes."""
        self.keeps = False  # whether what is observed stays after its calls have ended: for a handler of one turn alone
        self._lock = threading.Lock()
        self._roots: OrderedDict[UUID, _Root] = OrderedDict()
        self._root_of: dict[UUID, UUID] = {}

    def turn_of(self, run_id: UUID | None) -> tuple[UUID, UUID] | None:
        """The root and the turn that a run is part of: the `RunnableWithMessageHistory` above it, else the root.

        Args:
            run_id: The id of a run.

        Returns:
            The ids of both runs; None where the run is not known.
        """
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
            started: When the turn started, as `time.monotonic()` gives it.
            turn: What `turn_of` gave; None for all calls that have not ended.

        Returns:
            What was observed.
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
            if run_id == run.root or not root.open:  # below the outermost run, that one's end is not observed
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
                    details = (getattr(message, name, None) for name in ("response_metadata", "usage_metadata"))
                    run.model.take(generation.text, *details)
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
            call = {"name": run.name, "seconds": self._seconds(run), **more}
            if call_id := call_id or run.call_id:
                call["tool_call_id"] = call_id
            self._note(run_id, "tools", [call])
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
