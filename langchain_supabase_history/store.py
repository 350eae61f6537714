"""`HistoryStore`: every operation as a pair of one-liners over a driver."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from langchain_core.messages import BaseMessage

from . import calls
from .connecting import Connecting, number
from .errors import HistoryError, InvalidInput, InvalidMessage, InvalidSession, NotConfigured, NotFound
from .identity import Identity
from .insights import Insights
from .langsmith import LangSmith
from .messages import MAX_MESSAGE_BYTES
from .records import Loaded, Page, Session, StoredMessage, Turn, Window
from .retention import Retention

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable
    from langsmith import Client

    from .drivers.base import Driver
    from .history import SupabaseChatMessageHistory
    from .outbox import Outbox
    from .outbox_file import Waiting
    from .runnable import RunnableWithHistory

logger = logging.getLogger(__name__)
T = TypeVar("T")

OnError = Callable[[HistoryError, Sequence[BaseMessage]], None]


class HistoryStore(Connecting, Insights, Retention):
    """Durable conversations on Supabase, or any PostgreSQL 15 to 18.

    Made by `from_env`, `from_supabase`, `from_client`, `from_postgres` or `local`. Safe to share between threads and
    event loops; each method has an async twin with the prefix `a`. Connections are made at first use; `close` (or
    leaving a `with` block) gives them back, and a store used again opens again.

    Every operation is one round trip and one transaction. It raises a `HistoryError` (see `errors.py`): `Unavailable`
    when the database cannot be reached within the deadline, `NotInstalled` when its schema is missing, `Forbidden` when
    it refuses; bad arguments are refused before anything is sent.

    The constructors share these options:

    Args:
        schema: The schema that the tables are in.
        deadline: Seconds for one operation, its retries included.
        pool_size: Connections at the most, for sync and for async each.
        on_error: Called with an error and the messages it concerns where nobody else can be told: a history object
            inside `RunnableWithMessageHistory`, a generator that was dropped, an artifact that could not be stored.
        max_message_bytes: The largest message, as JSON.
        count_tokens: Gives a message's token count, which windows go by. Without it the provider's usage is taken, or
            an estimate: a quarter of the bytes of its content and tool calls, and 4.
        outbox: A file in which appends wait while the database is away; see `outbox.py`. An append that fails with
            `Unavailable` is kept there, answers [], and is sent later, in order. One process owns the file.
        langsmith_client: The `langsmith.Client` for feedback and links; by default one as the environment names it.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        on_error: OnError | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        count_tokens: Callable[[BaseMessage], int] | None = None,
        langsmith_client: Client | None = None,
        outbox: str | os.PathLike[str] | None = None,
    ) -> None:
        if not callable(getattr(driver, "execute", None)):
            raise NotConfigured(
                "A HistoryStore is made by from_env, from_postgres, from_supabase, from_client or local.",
                advice="For a connection string: HistoryStore.from_postgres(conninfo).",
            )
        self._driver = driver
        self._outbox: Outbox | None = None
        self._langsmith = LangSmith(langsmith_client)
        self._on_error = _callable(on_error, "on_error")
        self._count_tokens = _callable(count_tokens, "count_tokens")
        self._max_message_bytes = number(max_message_bytes, "max_message_bytes", int, 1)
        self._user_id: str | None = None
        self._identity: Identity | None = None
        self._window: Window | None = None
        if outbox is not None:  # last: what waits in it is sent from now on
            from .outbox import Outbox

            self._outbox = Outbox(outbox, driver, partial(_report, self._on_error))

    # --- views: the same connections, seen otherwise

    def _view(self, **changes: Any) -> HistoryStore:
        view = copy.copy(self)
        vars(view).update(changes)
        return view

    def for_user(self, user_id: str) -> HistoryStore:
        """This store, with every session belonging to that user. Two users may both have a session of one name."""
        return self._view(_user_id=calls.check_id(user_id, "user_id"))

    def as_user(
        self, access_token: str | Callable[[], str] | None = None, *, claims: Mapping[str, Any] | None = None
    ) -> HistoryStore:
        """This store, with every request running as that Supabase user: row level security decides.

        Args:
            access_token: The user's, or a callable that gives a fresh one, called for each operation. Over psycopg
                nobody else checks it, so the store does: see `from_postgres(jwt_secret=..., jwks_url=...)`.
            claims: Instead, over psycopg: claims that the application has verified, with the user's id as `sub`.
        """
        return self._view(_identity=Identity(access_token, claims))

    def with_window(self, window: Window | None) -> HistoryStore:
        """This store, with `load` and the histories it makes showing so much of each conversation."""
        if window is not None and not isinstance(window, Window):
            raise InvalidSession(f"window must be a Window, got {type(window).__name__}.")
        return self._view(_window=window)

    # --- messages

    def append(
        self,
        session_id: str,
        messages: Sequence[BaseMessage],
        *,
        ids: Sequence[uuid.UUID | str] | None = None,
        idempotency_key: str | None = None,
        turn: Turn | None = None,
        epoch: int | None = None,
    ) -> list[StoredMessage]:
        """Append messages to a session, all or none, in one run of positions, each exactly once.

        A retry inside stores nothing twice, nor does a call repeated with the same `ids` or `idempotency_key`: it is
        answered like the first. Without either, equal messages are stored again, as a list would.

        Args:
            ids: A row id for each message.
            idempotency_key: The application's name for this append (a request id, say), from which the ids are made.
            turn: The turn they belong to. Without one, messages that begin with a human one open a turn, others join
                the session's last.
            epoch: The session's epoch as last seen; new messages are refused where it has been raised since.

        Raises:
            InvalidMessage: A message cannot be stored; the text names it and its field.
            Conflict: A known id with other content, the same id twice, or an older epoch.
        """
        built = self._append(session_id, messages, ids=ids, idempotency_key=idempotency_key, turn=turn, epoch=epoch)
        return self._do(built) if built else []

    async def aappend(
        self,
        session_id: str,
        messages: Sequence[BaseMessage],
        *,
        ids: Sequence[uuid.UUID | str] | None = None,
        idempotency_key: str | None = None,
        turn: Turn | None = None,
        epoch: int | None = None,
    ) -> list[StoredMessage]:
        """Async version of append."""
        built = self._append(session_id, messages, ids=ids, idempotency_key=idempotency_key, turn=turn, epoch=epoch)
        return await self._ado(built) if built else []

    def _append(
        self, session_id: str, messages: Sequence[BaseMessage], **options: Any
    ) -> calls.Call[list[StoredMessage]] | None:
        built = calls.append(
            session_id, messages, user_id=self._user_id, max_message_bytes=self._max_message_bytes,
            count_tokens=self._count_tokens, **options,
        )  # fmt: skip
        self._report_amiss(built.amiss, messages)
        return built.call if messages or options.get("turn") or options.get("replace") else None

    def load(self, session_id: str, window: Window | None = None) -> list[BaseMessage]:
        """What the model should see of a session: its messages in order, none where there is no such session.

        Failed turns are left out, and tool calls without an answer, which providers refuse.

        Args:
            window: How much of it; by default this store's window, else all.
        """
        return self._do(self._load(session_id, window)).messages

    async def aload(self, session_id: str, window: Window | None = None) -> list[BaseMessage]:
        """Async version of load."""
        return (await self._ado(self._load(session_id, window))).messages

    def _load(self, session_id: str, window: Window | None = None) -> calls.Call[Loaded]:
        return calls.load(session_id, user_id=self._user_id, window=self._window if window is None else window)

    def _begin(self, session_id: str, question: Sequence[BaseMessage], turn: Turn) -> calls.Call[Loaded]:
        built = calls.begin(
            session_id, question, turn, user_id=self._user_id, window=self._window,
            max_message_bytes=self._max_message_bytes, count_tokens=self._count_tokens,
        )  # fmt: skip
        self._report_amiss(built.amiss, question)
        return built.call

    def messages(
        self, session_id: str, *, limit: int = 100, cursor: str | None = None, newest_first: bool = False
    ) -> Page[StoredMessage]:
        """What is stored of a session, failed turns included, a page at a time.

        Args:
            limit: Items in a page, 1 to 1000.
            cursor: The `next_cursor` of the page before.
            newest_first: Whether to begin at the end.
        """
        return self._do(self._list(calls.list_messages, session_id, limit, cursor, newest_first))

    async def amessages(
        self, session_id: str, *, limit: int = 100, cursor: str | None = None, newest_first: bool = False
    ) -> Page[StoredMessage]:
        """Async version of messages."""
        return await self._ado(self._list(calls.list_messages, session_id, limit, cursor, newest_first))

    def turns(
        self, session_id: str, *, limit: int = 100, cursor: str | None = None, newest_first: bool = False
    ) -> Page[Turn]:
        """The turns of a session, a page at a time; arguments as for `messages`."""
        return self._do(self._list(calls.list_turns, session_id, limit, cursor, newest_first))

    async def aturns(
        self, session_id: str, *, limit: int = 100, cursor: str | None = None, newest_first: bool = False
    ) -> Page[Turn]:
        """Async version of turns."""
        return await self._ado(self._list(calls.list_turns, session_id, limit, cursor, newest_first))

    def _list(self, build: Callable[..., calls.Call[T]], session_id: str, *page: Any) -> calls.Call[T]:
        limit, cursor, newest_first = page
        return build(session_id, user_id=self._user_id, limit=limit, cursor=cursor, newest_first=newest_first)

    def interrupt_turns(self, session_id: str, *, older_than: float) -> int:
        """Mark turns whose process was lost, those running for longer than so many seconds, as interrupted; count them.

        Only their status changes: the question stays on the turn, and a late answer still completes it.
        """
        return self._do(calls.interrupt_turns(session_id, older_than, user_id=self._user_id))

    async def ainterrupt_turns(self, session_id: str, *, older_than: float) -> int:
        """Async version of interrupt_turns."""
        return await self._ado(calls.interrupt_turns(session_id, older_than, user_id=self._user_id))

    def clear(self, session_id: str) -> int:
        """Hide all messages and turns of a session, and tell how many messages these were."""
        return self._do(calls.clear(session_id, user_id=self._user_id))

    async def aclear(self, session_id: str) -> int:
        """Async version of clear."""
        return await self._ado(calls.clear(session_id, user_id=self._user_id))

    # --- sessions

    def session(self, session_id: str) -> Session:
        """A session without its messages.

        Raises:
            NotFound: There is none of this name (and user), or it was deleted.
        """
        return _found(self._do(calls.get_session(session_id, user_id=self._user_id)), session_id)

    async def asession(self, session_id: str) -> Session:
        """Async version of session."""
        return _found(await self._ado(calls.get_session(session_id, user_id=self._user_id)), session_id)

    def delete_session(self, session_id: str) -> bool:
        """Remove a session with all it holds, and tell whether there was one. A late replay does not bring it back."""
        call = calls.delete_session(session_id, user_id=self._user_id)
        while True:
            deleted, more = self._do(call)
            if not more:
                return deleted

    async def adelete_session(self, session_id: str) -> bool:
        """Async version of delete_session."""
        call = calls.delete_session(session_id, user_id=self._user_id)
        while True:
            deleted, more = await self._ado(call)
            if not more:
                return deleted

    # --- LangChain

    def get_session_history(self, session_id: str, user_id: str | None = None) -> SupabaseChatMessageHistory:
        """A history for one turn: the factory for `RunnableWithMessageHistory`. No I/O.

        It reads once and keeps that until it writes. Make one for each turn.
        """
        from .history import SupabaseChatMessageHistory

        return SupabaseChatMessageHistory(session_id, self, user_id=user_id, keep=True)

    def with_history(
        self,
        runnable: Runnable[Any, Any],
        *,
        input_messages_key: str | None = None,
        output_messages_key: str | None = None,
        history_messages_key: str | None = None,
        window: Window | None = None,
        document_content: bool = False,
    ) -> RunnableWithHistory:
        """A runnable with memory: it is given the conversation so far, and its turn is stored. See `runnable.py`.

        With `document_content`, turns keep the whole text of the documents that retrievers found, not an excerpt.
        """
        from .runnable import RunnableWithHistory

        return RunnableWithHistory(
            runnable, self if window is None else self.with_window(window), input_messages_key=input_messages_key,
            output_messages_key=output_messages_key, history_messages_key=history_messages_key,
            document_content=document_content,
        )  # fmt: skip

    # --- outbox

    def flush(self) -> int:
        """Send what waits in the outbox, in order, and tell how many appends were stored; 0 without an outbox.

        Raises:
            HistoryError: Why something still waits.
        """
        return 0 if self._outbox is None else self._outbox.send(identity=self._identity)

    async def aflush(self) -> int:
        """Async version of flush."""
        return await asyncio.to_thread(self.flush)

    def waiting(self) -> list[Waiting]:
        """What is in the outbox, in the order in which it came."""
        return [] if self._outbox is None else self._outbox.waiting()

    # --- housekeeping

    def _do(self, call: calls.Call[T]) -> T:
        return (self._outbox or self._driver).execute(call, self._identity)

    async def _ado(self, call: calls.Call[T]) -> T:
        return await (self._outbox or self._driver).aexecute(call, self._identity)

    def _report_amiss(self, amiss: Sequence[str], messages: Sequence[BaseMessage]) -> None:
        for what in amiss:
            self._report(InvalidMessage(f"{what}.", advice=""), messages)

    def _report(self, error: HistoryError, messages: Sequence[BaseMessage]) -> None:
        """Tell of an error that no caller will see."""
        _report(self._on_error, error, messages)

    def close(self) -> None:
        """Give all connections back. May be called twice and from anywhere; used again, the store opens again."""
        if self._outbox is not None:
            self._outbox.close()
        self._langsmith.close()
        self._driver.close()

    async def aclose(self) -> None:
        """Async version of close."""
        if self._outbox is not None:
            await asyncio.to_thread(self._outbox.close)
        await asyncio.to_thread(self._langsmith.close)
        await self._driver.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"HistoryStore({self._driver!r})"


def _report(on_error: OnError | None, error: HistoryError, messages: Sequence[BaseMessage]) -> None:
    logger.warning("%s: %s", type(error).__name__, error)
    if on_error is not None:
        try:
            on_error(error, messages)
        except Exception:  # the application's own code; the turn must not fail because of it
            logger.exception("on_error raised")


def _found(session: Session | None, session_id: str) -> Session:
    if session is None:
        raise NotFound(f"There is no session {session_id[:100]!r}.")
    return session


def _callable(value: Any, name: str) -> Any:
    if value is not None and not callable(value):
        raise InvalidInput(f"{name} must be callable.")
    return value
