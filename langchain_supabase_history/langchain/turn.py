"""One turn of a `RunnableWithHistory`: what was asked, what has come so far, and whether it is written down."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio
from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import DEFAULT_RECURSION_LIMIT, patch_config, var_child_runnable_config

from ..core.arguments import message_ids
from ..core.call import Call, Plan
from ..core.observed import with_usage
from ..core.repair import history_before
from ..errors import Conflict, HistoryError, InvalidMessage, InvalidSession, NotSaved
from ..operations.base import Operations
from ..operations.messages import append_call, begin_call, list_messages
from ..operations.turns import list_turns
from ..records import Loaded, Status, Turn
from .audit import TurnAudit
from .graphs import GraphState, has_channel, is_command, is_resume
from .progress import Progress
from .shapes import (
    INTERRUPT,
    answer_of,
    are_updates,
    as_json,
    as_messages,
    folded,
    in_the_end,
    is_raw_and_parsed,
    joined,
    new_messages,
    with_ids,
)

_OPEN: Final = "__chat_history_turns"  # in `configurable`: the turns that a run is inside of
_RESUMABLE: Final = ("running", "interrupted")
_NEWEST: Final = 200  # messages that a resumed turn looks for its own among


@dataclass(frozen=True)
class Keys:
    """Where in dictionaries the question, the answer and the conversation so far are; and how an answer is made."""

    input: str | None = None
    output: str | None = None
    history: str | None = None
    session: str = "session_id"
    document_content: bool = False
    answer: Callable[[Any], Any] | None = None


class Phase(enum.Enum):
    """How far a turn has come."""

    NEW = enum.auto()
    ASKED = enum.auto()  # the question is on its way to the database
    RUNNING = enum.auto()  # the conversation is loaded, the runnable runs
    RECORDED = enum.auto()  # its end is on its way to the database: nothing else is to be written


class OpenTurn:
    """A turn from its question to its record.

    Args:
        keys: Where question, answer and history are.
        store: Where the conversation is.
        graph: The LangGraph graph that answers, if it is one.
        config: The config that it is called with.
    """

    def __init__(
        self, keys: Keys, store: Operations, graph: Any | None = None, config: RunnableConfig | None = None
    ) -> None:
        self.keys = keys
        self.store = store
        self.graph = graph
        self.phase = Phase.NEW
        self.state = GraphState()
        self.session_id = ""
        self.progress = Progress(audit=TurnAudit(content=keys.document_content))
        self.question: list[BaseMessage] = []
        self.messages: list[BaseMessage] = []  # what will be stored of it
        self._history: list[BaseMessage] = []  # the conversation so far, as the runnable is shown it
        self._around = tuple(_turns_around(config) + _turns_around(var_child_runnable_config.get()))
        self._has_limit = config is not None and "recursion_limit" in config
        self._question_ids = message_ids(0)
        self._resumed: Turn | None = None
        self._epoch: int | None = None
        self._is_begun = False  # whether the question has surely arrived
        self._chunks: list[Any] = []
        self._shown_at: str | None = None  # where in the input the runnable was given them together
        self._input_fields: set[str] = set()

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
        self._input_fields = set(input) if isinstance(input, dict) else set()
        if not is_resume(self.graph, input):
            fields = input.update if is_command(input) else input
            question = self._at(fields, self.keys.input, "input") if isinstance(fields, dict) else fields
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
        self.phase = Phase.ASKED
        if self.question:
            if self.graph is not None:
                self.question = with_ids(self.question, taken=kept)
            self._question_ids = message_ids(len(self.question))
            turn = self.progress.turn([], "running")
            loaded: Loaded = yield begin_call(
                self.store.scope, self.session_id, self.question, turn, ids=self._question_ids
            )
            self._epoch = loaded.epoch
            self._is_begun = True
            self.phase = Phase.RUNNING
            return loaded
        yield from self._look_up()
        self.phase = Phase.RUNNING
        return None

    def _look_up(self) -> Plan[None]:
        newest = yield from list_turns(self.store.scope, self.session_id, limit=1, newest_first=True)
        if newest.items and newest.items[0].status in _RESUMABLE:
            self._resumed = newest.items[0]
            self.progress.id = self._resumed.id
            self.question = self._resumed.question
        page = yield from list_messages(self.store.scope, self.session_id, limit=_NEWEST, newest_first=True)
        self._history = [stored.message for stored in reversed(page.items)]

    def given(self, input: Any, loaded: Loaded | None, kept: Sequence[BaseMessage] = ()) -> Any:
        """What the runnable is given: its input, with the conversation so far.

        Args:
            kept: The messages that a graph's checkpointer has kept of it, which are not given again.
        """
        if loaded is None:
            self._history = [*self._history, *kept]
            return input
        history = [] if kept else history_before(loaded, self.question)
        asked = [message for message in self.question if message.type != "system" or message not in history[:1]]
        if self.graph is not None:
            history = with_ids(history, taken=asked)
        self._history = [*kept, *history]
        if is_command(input):
            return replace(input, update=self._fields(input.update, history, asked))
        return self._fields(input, history, asked)

    def _fields(self, input: Any, history: Sequence[BaseMessage], asked: Sequence[BaseMessage]) -> Any:
        if self.keys.history:
            fields = input if isinstance(input, dict) else {self.keys.input or "input": input}
            return {**fields, self.keys.history: list(history)}
        if isinstance(input, dict):
            self._shown_at = self._key(input, self.keys.input, "input")
        elif has_channel(self.graph, name := self.keys.input or self.state.key):
            input, self._shown_at = {}, name
        else:
            return [*history, *asked]
        self.state.key = self._shown_at
        return {**input, self._shown_at: [*history, *asked]}

    def child_config(
        self, config: RunnableConfig, run_manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun
    ) -> RunnableConfig:
        """The config for the runnable inside: this turn's audit observes what is done."""
        child = run_manager.get_child()
        assert self.progress.audit is not None
        child.add_handler(self.progress.audit)
        patched = patch_config(config, callbacks=child, configurable={_OPEN: (*self._around, self._identity())})
        if patched.get("recursion_limit") == DEFAULT_RECURSION_LIMIT and not self._has_limit:
            del patched["recursion_limit"]  # LangChain's default, which would replace the runnable's own
        return patched

    @staticmethod
    def _key(value: dict[str, Any], key: str | None, default: str) -> str:
        return key or (next(iter(value)) if len(value) == 1 else default)

    def _at(self, value: dict[str, Any], key: str | None, what: str) -> Any:
        key = self._key(value, key, what)
        if key not in value:
            also = " To make an answer of the whole: with_history(..., answer=function)." if what == "output" else ""
            raise InvalidMessage(
                f"The {what} has no key {key!r}; its keys are {', '.join(map(repr, value)) or 'none'}. "
                f"Name the right one with {what}_messages_key=.{also}"
            )
        return value[key]

    # --- out

    def add(self, chunk: Any) -> None:
        """Take in a chunk of the output, or all of it."""
        if self.graph is not None and hasattr(chunk, "interrupts"):  # `invoke` with `version="v2"`
            self.state.values, self.state.interrupts = chunk.value, list(chunk.interrupts)
            self.state.is_interrupted = bool(chunk.interrupts)
            return
        if isinstance(chunk, dict) and INTERRUPT in chunk:
            self.state.is_interrupted = True
        self._chunks.append(chunk)

    def output(self) -> Any:
        """The output as it can be handed on with an error: whole, or, where its chunks do not go together, a list."""
        if self.state.values is not None:
            return self.state.output()
        try:
            return joined(self._chunks)
        except InvalidMessage:
            return list(self._chunks)

    def answer(self) -> list[BaseMessage]:
        """The messages of the answer.

        Raises:
            InvalidMessage: There is none where one should be.
        """
        if self.state.values is None and self.keys.answer is None and are_updates(self._chunks_of_answer()):
            shown = [*self._history, *self.question]
            return self._new(folded(shown, self._chunks_of_answer()), is_state=True)
        output = self.state.values if self.state.values is not None else joined(self._chunks)
        is_state = self.graph is not None
        if self.keys.answer is not None:
            output = self.keys.answer(output)
        elif isinstance(output, dict) and not is_raw_and_parsed(output):
            is_state = is_state or self._shown_at in output
            output = self._answer_in(output)
        elif is_state and (messages := self.state.messages()) is not None:
            output = messages
        if isinstance(output, str):  # a parser has taken it out of the model's message, usage and all
            return with_usage([AIMessage(content=output)], self.progress.answered())
        return self._new(answer_of(output), is_state=is_state)

    def _new(self, messages: Sequence[BaseMessage], *, is_state: bool) -> list[BaseMessage]:
        return new_messages(messages, self._history, self.question, is_state=is_state)

    def _chunks_of_answer(self) -> list[Any]:
        """The chunks, with `output_messages_key` what they have there: it may be a graph's among several runnables'."""
        key = self.keys.output
        found = [chunk[key] for chunk in self._chunks if isinstance(chunk, dict) and key in chunk]
        return found or self._chunks

    def _answer_in(self, output: dict[str, Any]) -> Any:
        same = self.state.key if self.graph is not None else self._shown_at  # an agent gives its state as it took it
        same = same if same in output else None
        if self.keys.output is None and same is None and self._is_structured(output):
            return output
        found = self._at(output, self.keys.output or same, "output")
        if isinstance(found, dict) and isinstance(found.get("messages"), list):  # an agent's whole state
            return found["messages"]
        return found

    def _is_structured(self, output: dict[str, Any]) -> bool:
        """Whether a dictionary as a whole is an answer that a model was made to give, and not what a chain returns."""
        if as_json(output) is None or "output" in output or not self._input_fields.isdisjoint(output):
            return False
        (one, *others) = output.values() or (None,)
        return bool(others) or not (isinstance(one, (str, list)) or (isinstance(one, dict) and "messages" in one))

    # --- a turn that ends well

    def save(self) -> None:
        """Write the turn down.

        Raises:
            NotSaved: It could not be.
        """
        call = self._completed()
        try:
            self._execute(call)
        except Exception as error:
            raise self._not_saved(error) from error

    async def asave(self) -> None:
        """Async version of `save`."""
        call = self._completed()
        try:
            await self._shielded(call)
        except Exception as error:
            raise self._not_saved(error) from error

    def _completed(self) -> Call[Any]:
        """The append that ends the turn well. Where the answer cannot be stored, the turn is left to be recorded."""
        try:
            self.messages = [*self.question, *self.answer()]
        except Exception as error:  # the runnable gave no answer where one should be
            self.messages = self.question
            raise self._not_saved(error) from error
        try:
            call = self._append("interrupted" if self.state.is_interrupted else "completed")
        except HistoryError as error:
            raise self._not_saved(error) from error
        self.phase = Phase.RECORDED
        return call

    def _not_saved(self, error: Exception) -> NotSaved:
        reason = str(error) if isinstance(error, HistoryError) else f"{type(error).__name__}: {error}"
        return NotSaved(
            f"The turn was not saved: {reason}",
            output=self.output(),
            messages=self.messages,
            code=getattr(error, "code", None),
        )

    def _append(self, status: Status, error: str | None = None) -> Call[Any]:
        self.progress.note_trace(self.session_id)
        question, answer = self.question, self.messages[len(self.question) :]
        if (state := self._state()) is not None and self._resumed is None:
            question, answer = in_the_end(question, answer, state)
            self.messages = [*question, *answer]
        edited = None
        if question != self.question:
            ids = [*self._question_ids, *message_ids(max(0, len(question) - len(self._question_ids)))]
            edited = list(zip(ids, question, strict=False))
        return append_call(
            self.store.scope,
            self.session_id,
            answer,
            turn=self._record(status, error),
            known_epoch=self._epoch,
            asked=bool(self.question),
            question=edited,
        )

    def _state(self) -> list[BaseMessage] | None:
        """The messages of the graph's state, where it is seen or can be computed."""
        if self.state.values is None and are_updates(self._chunks_of_answer()):
            return folded([*self._history, *self.question], self._chunks_of_answer())
        if self.graph is None and self._shown_at is not None:
            with contextlib.suppress(InvalidMessage):  # what came so far makes no value
                output = joined(self._chunks)
                found = output.get(self._shown_at) if isinstance(output, dict) else None
                return as_messages(found) if isinstance(found, list) else None
        return self.state.messages()

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
                self._execute(self._append(*_ending(error)))
            except Exception as unsaved:  # whatever it is, the turn's own error is the one to raise
                self._report(error, unsaved)

    async def afail(self, error: BaseException) -> None:
        """Async version of `fail`."""
        if self._take_failure(error):
            try:
                await self._shielded(self._append(*_ending(error)))
            except Exception as unsaved:
                self._report(error, unsaved)

    def _take_failure(self, error: BaseException) -> bool:
        # A conversation that could not be loaded is no turn. Cut off while it was being loaded, it may have begun.
        if self.phase is Phase.ASKED and isinstance(error, Exception):
            return False
        if self.phase in (Phase.NEW, Phase.RECORDED):
            return False
        self.messages = [*self.question, *self._so_far(cut=not isinstance(error, Exception))]
        self.phase = Phase.RECORDED
        return True

    def _so_far(self, *, cut: bool) -> list[BaseMessage]:
        """What there is of the answer: of a graph, the finished steps; where it was cut short, what was said so far."""
        with contextlib.suppress(Exception):  # the answer's part of the output had not come yet
            state = self.state.messages()
            if state is not None:
                partial = self.state.partial(state) if cut else []
                return [*self._new(state, is_state=True), *partial]
            if cut and self._chunks:
                return [message for message in self.answer() if message.content]
            if cut:
                return self.state.partial(self._history)
        return []

    def _report(self, error: BaseException, unsaved: Exception) -> None:
        """Tell of a turn that could not be stored, where another error goes to the caller."""
        if not self._is_begun and isinstance(unsaved, Conflict):
            return
        error.add_note(f"The turn could not be recorded: {unsaved}")
        reason = unsaved if isinstance(unsaved, HistoryError) else HistoryError(f"{type(unsaved).__name__}: {unsaved}")
        self.store.scope.report(reason, self.messages)

    def _execute(self, call: Call[Any]) -> None:
        """Execute a call to its end, also where the keyboard interrupts it; then be interrupted."""
        try:
            self.store.execute(call)
        except Exception:
            raise
        except BaseException as error:
            try:
                self.store.execute(_again(call))
            except Exception as unsaved:
                self._report(error, unsaved)
            raise

    async def _shielded(self, call: Call[Any]) -> None:
        """Execute a call to its end, whoever cancels meanwhile (anyio does at every await); then be cancelled."""
        cancelled: asyncio.CancelledError | None = None
        # A loop that ends cancels every task, the first of these too.
        with anyio.CancelScope(shield=True):
            for attempt in (call, _again(call)):
                task = asyncio.ensure_future(self.store.aexecute(attempt))
                while not task.done():
                    try:
                        await asyncio.shield(task)
                    except asyncio.CancelledError as error:
                        cancelled = error
                    except Exception:  # the task's own, looked at below
                        break
                if not task.cancelled():
                    break
        if cancelled is None:
            task.result()
            return
        if not task.cancelled() and isinstance(unsaved := task.exception(), Exception):
            self._report(cancelled, unsaved)
        raise cancelled


def _turns_around(config: RunnableConfig | None) -> list[Any]:
    return list(((config or {}).get("configurable") or {}).get(_OPEN) or ())


def _again(call: Call[Any]) -> Call[Any]:
    """The same call after a try that was cut off. It may be stored by then; the ids tell."""
    return replace(call, args=call.arguments(replay=True))


def _ending(error: BaseException) -> tuple[Status, str | None]:
    """How a turn ended: an error fails it; a closed stream, a cancelled task or the keyboard interrupts it."""
    if isinstance(error, Exception):
        return "failed", f"{type(error).__name__}: {error}"[:1000]
    return "interrupted", None
