"""One turn of a `RunnableWithHistory`: what was asked, what has come so far, and whether it is written down."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import DEFAULT_RECURSION_LIMIT, patch_config, var_child_runnable_config

from ..core.arguments import message_ids
from ..core.call import Call, Plan
from ..core.repair import shown_with
from ..errors import Conflict, HistoryError, InvalidInput, InvalidSession, NotSaved
from ..operations.base import Operations
from ..operations.messages import append_call, begin_call, list_messages
from ..operations.streamlit_page import Page, current_page
from ..operations.turns import list_turns
from ..records import Loaded, Status, StoredMessage, Turn
from .audit import TurnAudit
from .gained import in_the_end, same_said
from .graphs import has_channel, is_command, is_resume
from .output import Keys, Output, at_key, key_of
from .progress import Progress
from .shapes import as_messages, with_ids
from .writing import astore_to_its_end, store_to_its_end

_OPEN: Final = "__chat_history_turns"  # in `configurable`: the turns that a run is inside of
_ADDRESS: Final = {"thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map"}  # a graph's own thread
_RESUMABLE: Final = ("running", "interrupted", "failed")  # a graph takes up again what failed, too
_NEWEST: Final = 200  # messages that a resumed turn looks for its own among


class Phase(enum.Enum):
    """How far a turn has come."""

    NEW = enum.auto()
    ASKED = enum.auto()  # the question is on its way to the database
    RUNNING = enum.auto()  # the conversation is loaded, the runnable runs
    RECORDED = enum.auto()  # its end is on its way to the database: nothing else is to be written


class Watcher(Protocol):
    """Whoever takes an answer in while it is being written."""

    answer_id: uuid.UUID  # of the row that the answer's first message becomes

    def enter(self, turn: OpenTurn) -> Plan[None]:
        """The turn is begun."""

    def add(self, text: str) -> None:
        """More of the answer's text."""


class OpenTurn:
    """A turn from its question to its record.

    Args:
        keys: Where question, answer and history are.
        store: Where the conversation is.
        graph: The LangGraph graph that answers, if it is one.
        config: The config that it is called with.
        watcher: Takes the answer in while it is written. The turn is nobody's part then: no run and no page around it.
    """

    def __init__(
        self,
        keys: Keys,
        store: Operations,
        graph: Any | None = None,
        config: RunnableConfig | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.keys = keys
        self.store: Operations = store
        self.graph = graph
        self.phase: Phase = Phase.NEW
        self.output: Output = Output(keys, is_graph=graph is not None)
        self.page: Page | None = current_page() if watcher is None else None
        self.session_id: str = ""
        self.progress: Progress = Progress(audit=TurnAudit(content=keys.document_content))
        self.question: list[BaseMessage] = []
        self.messages: list[BaseMessage] = []  # what will be stored of it
        self._ambient = dict((var_child_runnable_config.get() or {}).get("configurable") or {})
        self._around = tuple(_turns_around(config) + list(self._ambient.get(_OPEN) or ()))
        self._watcher = watcher
        if watcher is not None:
            self._ambient, self._around = {}, ()
            self.output.on_text = self.output.state.on_text = watcher.add
        self._config: RunnableConfig = config or {}
        self._waiting: list[BaseMessage] = []  # the question as it waits on the turn's row
        self._question_ids = message_ids(0)
        self._resumed: Turn | None = None
        self._stored: list[StoredMessage] = []  # of a turn that is resumed
        self._ended: Turn | None = None  # as it is recorded
        self._epoch: int | None = None
        self._is_begun = False  # whether the question has surely arrived

    # --- in

    def begin(self, input: Any, config: RunnableConfig) -> None:
        """Take the question, and whose it is."""
        configurable = ensure_config(config).get("configurable", {})
        name = self.keys.session
        if name not in configurable:
            hint = ""
            if "thread_id" in configurable:
                hint = " To take thread_id for it: with_history(..., session_key='thread_id')."
            raise InvalidSession(f"Name the conversation: pass config={{'configurable': {{{name!r}: '...'}}}}.{hint}")
        if (user_id := configurable.get("user_id")) is not None:
            self.store = self.store.for_user(user_id)
        self.session_id = configurable[name]
        self.output.input_fields = set(input) if isinstance(input, dict) else set()
        if not is_resume(self.graph, input):
            fields = input.update if is_command(input) else input
            question = at_key(fields, self.keys.input, "input") if isinstance(fields, dict) else fields
            # Copies: an agent writes ids into what it is given.
            self.question = [message.model_copy() for message in as_messages(question)]
        self.progress.note_trace(self.session_id)

    def is_inside_itself(self) -> bool:
        """Whether a turn of the same session is running around this one."""
        return self._identity() in self._around

    def _identity(self) -> tuple[int, str | None, str]:
        return id(self.store.executor), self.store.scope.user_id, self.session_id

    def opening(self, kept: Sequence[BaseMessage] = ()) -> Plan[Loaded | None]:
        """Load the conversation; in the same round trip the question is left with the turn, should this be killed.

        A turn that is resumed is looked up instead: the graph itself has kept what it needs to go on.

        Args:
            kept: The messages that a graph's checkpointer has kept of it.
        """
        if self._watcher is not None and not self.question:
            raise InvalidInput("run_turn begins a turn with a question; what goes on with one is streamed.")
        self.phase = Phase.ASKED
        if self.question:
            if self.graph is not None:
                self.question = with_ids(self.question, taken=kept)
            self._waiting = self.question
            self._question_ids = message_ids(len(self.question))
            turn = self.progress.turn([], "running")
            loaded: Loaded = yield begin_call(
                self.store.scope, self.session_id, self.question, turn, ids=self._question_ids
            )
            self._epoch = loaded.epoch
            self._is_begun = True
            self.phase = Phase.RUNNING
            if self._watcher is not None:
                yield from self._watcher.enter(self)
            return loaded
        yield from self._look_up()
        self.phase = Phase.RUNNING
        return None

    def _look_up(self) -> Plan[None]:
        newest = yield from list_turns(self.store.scope, self.session_id, limit=1, newest_first=True)
        if newest.items and newest.items[0].status in _RESUMABLE:
            self._resumed = newest.items[0]
            self.progress.id = self._resumed.id
            self.question = self._waiting = self._resumed.question
        page = yield from list_messages(self.store.scope, self.session_id, limit=_NEWEST, newest_first=True)
        self.output.history = [stored.message for stored in reversed(page.items)]
        self._stored = [stored for stored in page.items if stored.turn_id == self.progress.id]

    def given(self, input: Any, loaded: Loaded | None, kept: Sequence[BaseMessage] = ()) -> Any:
        """What the runnable is given: its input, with the conversation so far.

        Args:
            kept: The messages that a graph's checkpointer has kept of it, which are not given again.
        """
        self.output.question = self.question
        if loaded is None:
            self.output.history = [*self.output.history, *kept]
            return input
        shown = shown_with(kept or loaded.unrepaired, self.question)
        self.question = shown.kept  # a prompt gives the same instructions with each question
        history, asked = (shown.history if self.keys.history else shown.in_front), shown.asked
        if kept:  # the graph has them, and puts the question behind them
            history, asked = [], self.question
        self.output.question = asked
        if self.graph is not None:
            history = with_ids(history, taken=asked)
        self.output.history = [*kept, *history]
        if is_command(input):
            return replace(input, update=self._fields(input.update, history, asked))
        return self._fields(input, history, asked)

    def _fields(self, input: Any, history: Sequence[BaseMessage], asked: Sequence[BaseMessage]) -> Any:
        if self.keys.history:
            fields = input if isinstance(input, dict) else {self.keys.input or "input": input}
            return {**fields, self.keys.history: list(history)}
        if isinstance(input, dict):
            self.output.shown_at = key_of(input, self.keys.input, "input")
        elif has_channel(self.graph, name := self.keys.input or self.output.state.key):
            input, self.output.shown_at = {}, name
        else:
            return [*history, *asked]
        self.output.state.key = self.output.shown_at
        return {**input, self.output.shown_at: [*history, *asked]}

    def child_config(
        self, config: RunnableConfig, run_manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun
    ) -> RunnableConfig:
        """The config for the runnable inside: this turn's audit observes what is done."""
        child = run_manager.get_child()
        assert self.progress.audit is not None
        child.add_handler(self.progress.audit)
        called_with = self._config.get("configurable") or {}
        # As graphs themselves do: what runs around them reaches them, but for their own config and the call's.
        ambient = self._ambient if _ADDRESS.isdisjoint(called_with) else {}
        if self.keys.session in called_with:  # another session, and perhaps nobody's
            ambient = {name: value for name, value in ambient.items() if name not in ("user_id", self.keys.session)}
        own: dict[str, Any] = getattr(self.graph, "config", None) or {}
        configurable = {**ambient, **(own.get("configurable") or {}), **called_with}
        configurable[_OPEN] = (*self._around, self._identity())
        patched = patch_config(config, callbacks=child, configurable=configurable)
        if own.get("metadata"):
            named = self._config.get("metadata") or {}
            patched["metadata"] = {**(patched.get("metadata") or {}), **own["metadata"], **named}
        if patched.get("recursion_limit") == DEFAULT_RECURSION_LIMIT and "recursion_limit" not in self._config:
            del patched["recursion_limit"]  # LangChain's default, which would replace the runnable's own
        return patched

    # --- a turn that ends well

    def save(self) -> None:
        """Write the turn down.

        Raises:
            NotSaved: It could not be.
        """
        if self.phase is Phase.RECORDED:  # cut by its watcher
            return
        call = self._completed()
        try:
            store_to_its_end(self.store, call, self._report, self._in_place_of_the_part)
        except Exception as error:
            raise self._not_saved(error) from error

    async def asave(self) -> None:
        """Async version of `save`."""
        if self.phase is Phase.RECORDED:
            return
        call = self._completed()
        try:
            await astore_to_its_end(self.store, call, self._report, self._in_place_of_the_part)
        except Exception as error:
            raise self._not_saved(error) from error

    def drop(self) -> None:
        """Nothing of the turn is to be stored."""
        self.phase = Phase.RECORDED

    def _in_place_of_the_part(self) -> Call[Any] | None:
        """The call for an answer of which a part was stored, by a reader who took the watcher for gone."""
        answer = self.messages[len(self.question) :]
        if self._watcher is None or len(answer) != 1 or not isinstance(answer[0], AIMessage):
            return None
        edited = [(self._watcher.answer_id, answer[0])]
        return append_call(self.store.scope, self.session_id, [], turn=self._ended, asked=True, edited=edited)

    def _completed(self) -> Call[Any]:
        """The append that ends the turn well. Where the answer cannot be stored, the turn is left to be recorded."""
        try:
            self.messages = [*self.question, *self.output.answer(self.progress.answered())]
        except Exception as error:  # the runnable gave no answer where one should be
            self.messages = self.question
            raise self._not_saved(error) from error
        try:
            call = self._append("interrupted" if self.output.state.is_interrupted else "completed")
        except HistoryError as error:
            raise self._not_saved(error) from error
        self.phase = Phase.RECORDED
        return call

    def _not_saved(self, error: Exception) -> NotSaved:
        reason = str(error) if isinstance(error, HistoryError) else f"{type(error).__name__}: {error}"
        return NotSaved(
            f"The turn was not saved: {reason}",
            output=self.output.whole(),
            messages=self.messages,
            code=getattr(error, "code", None),
        )

    def _append(self, status: Status, error: str | None = None) -> Call[Any]:
        self.progress.note_trace(self.session_id)
        question, answer = self.question, self.messages[len(self.question) :]
        if (state := self.output.messages_of_state()) is not None and self._resumed is None:
            question, answer = in_the_end(question, answer, state)
            self.messages = [*question, *answer]
        self._ended = self._record(status, error)
        edited = None
        if question != self._waiting:
            ids = [*self._question_ids, *message_ids(max(0, len(question) - len(self._question_ids)))]
            edited = list(zip(ids, question, strict=False))
        return append_call(
            self.store.scope,
            self.session_id,
            answer,
            ids=self._answer_ids(len(answer)),
            turn=self._ended,
            known_epoch=self._epoch,
            asked=bool(self._waiting),
            question=edited,
            edited=self._edited(),
        )

    def _answer_ids(self, count: int) -> list[uuid.UUID] | None:
        if self._watcher is None or count == 0:
            return None
        return [self._watcher.answer_id, *message_ids(count - 1)]

    def _edited(self) -> list[tuple[uuid.UUID, BaseMessage]]:
        """What was stored before the turn was resumed, and is edited since."""
        found = self.output.messages_of_state() or ()
        state: dict[str | None, BaseMessage] = {message.id: message for message in found if message.id}
        pairs = [(stored, state.get(stored.message.id)) for stored in self._stored]
        return [(stored.id, now) for stored, now in pairs if now is not None and not same_said(stored.message, now)]

    def _record(self, status: Status, error: str | None) -> Turn:
        turn = self.progress.turn(self.messages, status, error)
        if self._resumed is None:
            return turn
        before = self._resumed
        counts: dict[str, Any] = {
            name: (getattr(before, name) or 0) + (getattr(turn, name) or 0)
            for name in ("input_tokens", "output_tokens", "total_tokens")
            if getattr(before, name) is not None
        }
        return replace(turn, started_at=before.started_at, **counts)

    # --- a turn that fails or is cut short is recorded with what there is of it

    def fail(self, error: BaseException) -> None:
        """Write down that the turn failed or was cut short."""
        if self._take_failure(error):
            try:
                call = self._append(*_ending(error))
                store_to_its_end(self.store, call, self._report, self._in_place_of_the_part)
            except Exception as unsaved:  # whatever it is, the turn's own error is the one to raise
                self._report(error, unsaved)

    async def afail(self, error: BaseException) -> None:
        """Async version of `fail`."""
        if self._take_failure(error):
            try:
                call = self._append(*_ending(error))
                await astore_to_its_end(self.store, call, self._report, self._in_place_of_the_part)
            except Exception as unsaved:
                self._report(error, unsaved)

    def _take_failure(self, error: BaseException) -> bool:
        # A conversation that could not be loaded is no turn. Cut off while it was being loaded, it may have begun.
        if self.phase is Phase.ASKED and isinstance(error, Exception):
            return False
        if self.phase in (Phase.NEW, Phase.RECORDED):
            return False
        self.messages = [*self.question, *self.output.so_far(cut=not isinstance(error, Exception))]
        self.phase = Phase.RECORDED
        return True

    def _report(self, error: BaseException, unsaved: Exception) -> None:
        """Report a turn that could not be stored, where another error goes to the caller."""
        if isinstance(unsaved, Conflict) and (self._watcher is not None or not self._is_begun):
            return  # it was cleared, or what its watcher had written of it was stored
        error.add_note(f"The turn could not be recorded: {unsaved}")
        reason = unsaved if isinstance(unsaved, HistoryError) else HistoryError(f"{type(unsaved).__name__}: {unsaved}")
        self.store.scope.report(reason, self.messages)


def _turns_around(config: RunnableConfig | None) -> list[Any]:
    return list(((config or {}).get("configurable") or {}).get(_OPEN) or ())


def _ending(error: BaseException) -> tuple[Status, str | None]:
    """How a turn ended: an error fails it; a closed stream, a cancelled task or the keyboard interrupts it."""
    if isinstance(error, Exception):
        return "failed", f"{type(error).__name__}: {error}"[:1000]
    return "interrupted", None
