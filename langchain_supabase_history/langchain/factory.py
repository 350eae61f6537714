"""How a store gives memory to LangChain's runnables."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ..core.window import Window
from ..operations.base import Operations, require_asyncio
from ..records import Session
from .runs import Runs
from .titles import TitleOptions, title_with

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable, RunnableConfig

    from ..drivers.base import Driver
    from .history import SupabaseChatMessageHistory
    from .runnable import RunnableWithHistory


class MemoryOptions(TypedDict, total=False):
    """The options of `with_history`; see there."""

    input_messages_key: str | None
    output_messages_key: str | None
    history_messages_key: str | None
    session_key: str
    document_content: bool
    answer: Callable[[Any], Any] | None


class LangChain(Operations):
    """The part of a store that LangChain's applications use."""

    driver: Driver[Any]
    _runs: Runs

    def get_session_history(self, session_id: str, user_id: str | None = None) -> SupabaseChatMessageHistory:
        """A history for one turn: the factory for `RunnableWithMessageHistory`. No I/O.

        It reads once and keeps that until it writes. Make one for each turn.

        Args:
            session_id: The session's name.
            user_id: The user it belongs to; by default this store's.

        Returns:
            The history.
        """
        from .history import SupabaseChatMessageHistory

        return SupabaseChatMessageHistory(session_id, self, user_id=user_id, keep=True)

    def with_history(
        self, runnable: Runnable[Any, Any], *, window: Window | None = None, **options: Unpack[MemoryOptions]
    ) -> RunnableWithHistory:
        """A runnable with memory: it is given the conversation so far, and its turn is stored.

        Args:
            runnable: A chain, a chat model or an agent.
            window: How much of the conversation it is given; by default this store's window, else all.
            input_messages_key: Where in a dictionary given as input the question is.
            output_messages_key: Where in a dictionary that comes out the answer is.
            history_messages_key: Where in the input the conversation so far goes; by default in front of the question.
            session_key: The key of the config's `configurable` that names the session, `session_id` by
                default (`thread_id`, say).
            answer: Makes of the output what is stored as its answer: a string, a message or a list of messages.
            document_content: Keep the whole text of the documents that retrievers found, not an excerpt.

        Returns:
            The runnable with memory.

        Raises:
            InvalidInput: The runnable is none, or a key is no str.
        """
        from .runnable import RunnableWithHistory

        return RunnableWithHistory(runnable, self if window is None else self.with_window(window), **options)

    def run_turn(
        self, bot: RunnableWithHistory, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> uuid.UUID:
        """Begin a turn, and let it run on in the background: whoever asked may leave, and come back.

        `follow` gives its answer while it is written, `stop_turn` ends it; both from anywhere. It is recorded as every
        turn is. `close` stops it; where the process is killed, what was written is stored by the next reader.

        Args:
            bot: What `with_history` of this store has made.
            input: The question, as `bot.stream` takes it.
            config: The config that names the session.
            kwargs: What else `bot.stream` is called with.

        Returns:
            The turn's id. The turn is begun then, and can be followed.

        Raises:
            InvalidInput: The bot is none of this store, or the input has no question.
            HistoryError: The turn could not be begun.
        """
        from .background import ThreadRun

        return ThreadRun(self, bot, input, config, kwargs, deadline=self.driver.deadline, runs=self._runs).start()

    async def arun_turn(
        self, bot: RunnableWithHistory, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> uuid.UUID:
        """Async version of `run_turn`."""
        from .background import TaskRun

        require_asyncio()
        return await TaskRun(self, bot, input, config, kwargs, deadline=self.driver.deadline, runs=self._runs).start()

    def title_with(self, runnable: Runnable[Any, Any], session_id: str, **options: Unpack[TitleOptions]) -> Session:
        """Let a model write the title of a conversation that has none, and return the session.

        It takes as long as the model does: call it after a turn, in a thread or a task of its own, where nobody waits.
        A title that somebody has set, also meanwhile, stays.

        Args:
            runnable: A chat model, or a chain that takes a list of messages and gives text or a message.
            session_id: The session's name.
            instruction: Asks for the title, behind the first ten messages of the conversation; None for a chain that
                knows what to do.

        Returns:
            The session, with its title.

        Raises:
            NotFound: There is no such session, or no text in it.
            InvalidInput: An argument cannot be right.
        """
        return self.run(title_with(self.scope, runnable, session_id, **options))

    async def atitle_with(
        self, runnable: Runnable[Any, Any], session_id: str, **options: Unpack[TitleOptions]
    ) -> Session:
        """Async version of `title_with`."""
        return await self.arun(title_with(self.scope, runnable, session_id, **options))
