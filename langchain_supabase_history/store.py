"""`HistoryStore`: the face of the library. Its operations are in `operations/`, each area in a file of its own."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from langchain_core.messages import BaseMessage

from .connect.constructors import Connecting
from .core.arguments import check_callable
from .core.messages import MAX_MESSAGE_BYTES
from .core.settings import check_limit
from .errors import NotConfigured
from .langchain.factory import LangChain
from .langchain.runs import Runs
from .langsmith.client import LangSmith
from .langsmith.traces import TracedConversations
from .operations.base import Executor, Operations
from .operations.scope import OnError, Scope
from .transfer.operations import Transfer

if TYPE_CHECKING:
    from langsmith import Client

    from .drivers.base import Driver
    from .drivers.observe import OnOperation
    from .outbox.file import Waiting
    from .outbox.outbox import Outbox


class HistoryStore(Connecting, LangChain, TracedConversations, Transfer):
    """Durable conversations on Supabase, or any PostgreSQL 15 to 18.

    Made by `from_env`, `from_supabase`, `from_client`, `from_postgres` or `local`. Safe to share between threads and
    event loops; each method has an async version with the prefix `a`. Connections are made at first use; `close` (or
    leaving a `with` block) releases them, and a store used again opens again.

    Every operation can raise a `HistoryError`: `Unavailable` when the database cannot be reached within
    the deadline, `NotInstalled` when its schema is missing, `Forbidden` when it refuses; bad arguments are refused
    before anything is sent.

    The constructors share these options:

    - `schema`: the schema that the tables are in; by default `public`.
    - `deadline`: seconds for one operation, its retries included; by default 10.
    - `pool_size`: connections at the most, for sync and for async each; by default 10.

    Args:
        driver: How the database is reached; the constructors make it.
        on_error: Called with an error and the messages it concerns where no caller sees it: a history object inside
            `RunnableWithMessageHistory`, a generator that was dropped, an artifact that could not be stored.
        on_operation: Called after each operation on the database with an `Operation`: its name, milliseconds, tries
            and bytes. It runs where the operation ran, on the event loop for async ones: let it be short.
        max_message_bytes: The largest message, as JSON; by default 16 MB.
        count_tokens: Gives a message's token count, which windows go by. Without it the provider's usage is taken, or
            an estimate: a quarter of the bytes of its content and tool calls, and 4.
        langsmith_client: The `langsmith.Client` for feedback and links; by default one as the environment names it.
        outbox: A file in which appends wait while the database cannot be reached. An append that fails with
            `Unavailable` is kept there, answers [], and is sent later, in order. One process owns the file.
    """

    def __init__(
        self,
        driver: Driver[Any],
        *,
        on_error: OnError | None = None,
        on_operation: OnOperation | None = None,
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
        self.langsmith: LangSmith = LangSmith(langsmith_client)
        Operations.__init__(
            self,
            driver,
            Scope(
                on_error=check_callable(on_error, "on_error"),
                max_message_bytes=check_limit(max_message_bytes, "max_message_bytes", int, 1),
                count_tokens=check_callable(count_tokens, "count_tokens"),
                feedback=self.langsmith,
            ),
        )
        if on_operation is not None:
            driver.on_operation = check_callable(on_operation, "on_operation")
        self.driver = driver
        self._runs = Runs()
        self._outbox: Outbox | None = None
        if outbox is not None:  # last: what waits in it is sent from now on
            from .outbox.outbox import Outbox

            self._outbox = Outbox(outbox, driver, self.scope.report)
            self.executor: Executor = self._outbox

    # --- outbox

    def flush(self) -> int:
        """Send what waits in the outbox, in order.

        Returns:
            How many appends were stored; 0 without an outbox.

        Raises:
            HistoryError: Why something still waits.
        """
        return 0 if self._outbox is None else self._outbox.send(identity=self.scope.identity)

    async def aflush(self) -> int:
        """Async version of `flush`."""
        return await asyncio.to_thread(self.flush)

    def waiting(self) -> list[Waiting]:
        """What is in the outbox, in the order in which it came.

        Returns:
            What waits; nothing without an outbox.
        """
        return [] if self._outbox is None else self._outbox.waiting()

    # --- the application's transactions, and the statistics of the pools

    def in_transaction(self, conn: Any) -> Self:
        """This store, with every operation inside the transaction that a connection of the application's is in.

        What is written is committed or rolled back with it. Nothing is retried, and nothing waits in an outbox.

        Args:
            conn: A `psycopg.Connection`, or an `AsyncConnection` for the async methods. From SQLAlchemy:
                `conn.connection.driver_connection`. Its login must be allowed what is called.

        Raises:
            InvalidInput: It is no psycopg connection. At an operation: it is in autocommit mode and in no transaction,
                its transaction has failed, or the store is `as_user`.
        """
        from .drivers.own_pool import Joined

        view = copy.copy(self)
        view.executor = Joined(conn, self.driver)
        return view

    def pool_stats(self) -> dict[str, dict[str, int]]:
        """The statistics of open psycopg pools: `{"sync": {...}, "async": {...}}`, each as psycopg_pool's `get_stats`.

        Returns:
            The numbers by pool; nothing over the Data API.
        """
        return self.driver.pool_stats()

    # --- lifecycle

    def close(self) -> None:
        """Give all connections back. May be called twice and from anywhere; used again, the store opens again.

        Turns of `run_turn` are stopped first, and waited for, 10 seconds at the most.
        """
        self._runs.stop()
        if self._outbox is not None:
            self._outbox.close()
        self.langsmith.close()
        self.driver.close()

    async def aclose(self) -> None:
        """Async version of `close`."""
        await self._runs.astop()
        if self._outbox is not None:
            await asyncio.to_thread(self._outbox.close)
        await asyncio.to_thread(self.langsmith.close)
        await self.driver.aclose()

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
        scope = self.scope
        parts = [repr(self.driver), f"transport={self.driver.transport!r}"]
        if scope.user_id is not None:
            parts.append(f"user_id={scope.user_id!r}")
        if scope.identity is not None:
            parts.append("as_user")
        if scope.window is not None:
            parts.append(f"window={scope.window!r}")
        return f"HistoryStore({', '.join(parts)})"
