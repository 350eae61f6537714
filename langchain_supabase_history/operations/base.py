"""What all operations share: a scope, somebody who executes calls, and the two ways to carry out a plan."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar

from ..core.arguments import check_id
from ..core.call import Blocking, Call, Plan, Step
from ..core.identity import Identity
from ..core.pickling import MadeInWorker
from ..core.window import Window
from ..errors import InvalidInput, InvalidSession
from .scope import Scope

R = TypeVar("R")


class Executor(Protocol):
    """Executes calls: a driver, or the outbox in front of one."""

    def execute(self, call: Call[R], identity: Identity | None = None) -> R:
        """Execute a call and wait for its answer."""

    async def aexecute(self, call: Call[R], identity: Identity | None = None) -> R:
        """Async version of `execute`."""


def require_asyncio() -> None:
    """Refuse an async operation that no asyncio loop runs, before any of it is done.

    Raises:
        InvalidInput: Another library's loop runs it (trio's), or none.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidInput(
            "The async methods need a running asyncio loop.",
            advice="Under trio, run the sync ones in a thread: await trio.to_thread.run_sync(store.load, session_id).",
        ) from None


class Operations(MadeInWorker):
    """Carries out plans, within a scope.

    Args:
        executor: Executes their calls.
        scope: Whose conversations, as whom, and so on.
    """

    def __init__(self, executor: Executor, scope: Scope) -> None:
        self.executor: Executor = executor
        self.scope: Scope = scope

    def execute(self, call: Call[R]) -> R:
        """Execute one call, as whom this scope says.

        Args:
            call: The call of one SQL function.

        Returns:
            What the call's `parse` makes of the answer.

        Raises:
            HistoryError: The database refused it, or could not be reached within the deadline.
        """
        return self.executor.execute(call, self.scope.identity)

    async def aexecute(self, call: Call[R]) -> R:
        """Async version of `execute`."""
        require_asyncio()
        return await self.executor.aexecute(call, self.scope.identity)

    def run(self, plan: Plan[R]) -> R:
        """Carry out a plan: take its steps one by one, and give it their results, or what they raised.

        Args:
            plan: A generator that yields calls and returns the result.

        Returns:
            The plan's result.

        Raises:
            HistoryError: A call failed, and the plan did not handle it.
        """
        try:
            step = next(plan)
            while True:
                try:
                    result = self._take(step)
                except BaseException as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            plan.close()

    async def arun(self, plan: Plan[R]) -> R:
        """Async version of `run`."""
        require_asyncio()
        try:
            step = next(plan)
            while True:
                try:
                    result = await self._atake(step)
                except BaseException as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            plan.close()

    def _take(self, step: Step) -> Any:
        return step.function() if isinstance(step, Blocking) else self.execute(step)

    async def _atake(self, step: Step) -> Any:
        return await (asyncio.to_thread(step.function) if isinstance(step, Blocking) else self.aexecute(step))

    # --- views: the same connections, within another scope

    def within(self, **changes: Any) -> Self:
        """The same operations, within a scope that is this one with the changes.

        Args:
            **changes: Fields of the `Scope`, with their new values.
        """
        view = copy.copy(self)
        view.scope = replace(self.scope, **changes)
        return view

    def for_user(self, user_id: str) -> Self:
        """This store, with every session belonging to that user. Two users may both have a session of one name.

        Args:
            user_id: The user, as the application names them.

        Raises:
            InvalidSession: It cannot be a user id.
            InvalidInput: This store is bound to another user already.
        """
        return self.within(user_id=self.scope.user_or_own(check_id(user_id, "user_id")))

    def as_user(
        self, access_token: str | Callable[[], str] | None = None, *, claims: Mapping[str, Any] | None = None
    ) -> Self:
        """This store, with every request running as that Supabase user: row level security decides.

        Args:
            access_token: The user's, or a callable that gives a fresh one, called for each operation. Over psycopg
                nobody else checks it, so the store does: see `from_postgres(jwt_secret=..., jwks_url=...)`.
            claims: Instead, over psycopg: claims that the application has verified, with the user's id as `sub`.

        Raises:
            InvalidInput: It is no access token, or the claims name no user.
        """
        return self.within(identity=Identity(access_token, claims))

    def with_window(self, window: Window | None) -> Self:
        """This store, with `load` and the histories it makes showing so much of each conversation.

        Args:
            window: How much of each conversation; None for all of it.

        Raises:
            InvalidSession: It is no `Window`.
        """
        if window is not None and not isinstance(window, Window):
            raise InvalidSession(f"window must be a Window, got {type(window).__name__}.")
        return self.within(window=window)
