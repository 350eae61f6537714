"""What `HistoryStore` need not keep: old, idle and hidden conversations, and all that there is of one person."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .calls import Call, _whole, check_id
from .errors import InvalidInput
from .records import Pruned

if TYPE_CHECKING:
    from .store import HistoryStore

T = TypeVar("T")

MAX_BATCH: Final = 10_000
_LONGEST_IDLE: Final = timedelta(days=365_000)


# --- the calls ------------------------------------------------------------------------------------------------------


def _flag(value: object, name: str) -> bool:
    if type(value) is not bool:
        raise InvalidInput(f"{name} must be True or False.")
    return value


def _callable(progress: object) -> None:
    if progress is not None and not callable(progress):
        raise InvalidInput("progress must be callable.")


def _batch(value: object) -> int:
    return _whole(value, "batch", 1, MAX_BATCH)


def prune(
    *, idle: timedelta | None = None, keep_messages: int | None = None, dry_run: bool = True, batch: int = 500,
    user_id: str | None = None, after: str | None = None,
) -> Call[tuple[Pruned, str | None]]:  # fmt: skip
    """`chat_history_prune`: one batch, and where to go on. See `HistoryStore.prune`."""
    if idle is not None and (not isinstance(idle, timedelta) or not timedelta(0) < idle <= _LONGEST_IDLE):
        raise InvalidInput("idle must be a timedelta above 0: timedelta(days=90), say.")
    _flag(dry_run, "dry_run")

    def parse(reply: Any) -> tuple[Pruned, str | None]:
        return _pruned(reply, dry_run), reply["next"]

    args = {
        "idle_for": None if idle is None else f"{idle.total_seconds():f} seconds",
        "keep_messages": None if keep_messages is None else _whole(keep_messages, "keep_messages", 1, 2**31 - 1),
        "dry_run": dry_run, "batch": _batch(batch), "user_id": user_id, "after_session": after,
    }  # fmt: skip
    return Call("chat_history_prune", args, parse)


def delete_user(user_id: str, *, batch: int = 500) -> Call[tuple[Pruned, bool]]:
    """`chat_history_delete_user`: one batch, and whether there is more. See `HistoryStore.delete_user`."""

    def parse(reply: Any) -> tuple[Pruned, bool]:
        return _pruned(reply, False), reply["more"]

    return Call("chat_history_delete_user", {"user_id": check_id(user_id, "user_id"), "batch": _batch(batch)}, parse)


def _pruned(reply: Any, dry_run: bool) -> Pruned:
    return Pruned(reply["sessions"], reply.get("trimmed", 0), reply["messages"], reply["turns"], reply["feedback"],
                  dry_run)  # fmt: skip


def _sum(total: Pruned | None, more: Pruned) -> Pruned:
    if total is None:
        return more
    return replace(
        total, sessions=total.sessions + more.sessions, trimmed=total.trimmed + more.trimmed,
        messages=total.messages + more.messages, turns=total.turns + more.turns,
        feedback=total.feedback + more.feedback,
    )  # fmt: skip


# --- the store's methods ----------------------------------------------------------------------------------------------


class Retention:
    """The part of `HistoryStore` that removes what need not be kept. Each batch is one short transaction."""

    _user_id: str | None

    def _do(self, call: Call[T]) -> T:
        raise NotImplementedError

    async def _ado(self, call: Call[T]) -> T:
        raise NotImplementedError

    def prune(
        self, *, idle: timedelta | None = None, keep_messages: int | None = None, dry_run: bool = True,
        batch: int = 500, progress: Callable[[Pruned], None] | None = None,
    ) -> Pruned:  # fmt: skip
        """Remove for good what need not be kept, and tell how much that was; by default only tell.

        What `clear` has hidden always goes. Sessions of this store's user, else all that the database shows. Sessions
        that are being written to are passed over; they are seen to the next time.

        Args:
            idle: Delete sessions without a write for so long.
            keep_messages: Remove all but so many of the newest messages of each session, and their turns. The turn that
                the oldest of them belongs to stays whole, unless that keeps more than as many again. A retry of a turn
                that began before and was not stored yet is refused afterwards, as after `clear`.
            dry_run: Change nothing, and tell what would be removed.
            batch: How much one transaction removes at most, in sessions, messages and turns together; up to 10,000.
            progress: Called after each batch with the sum so far.

        Raises:
            InvalidInput: An argument cannot be right.
        """
        total, after = None, None
        _callable(progress)
        while True:
            done, after = self._do(self._prune(idle, keep_messages, dry_run, batch, after))
            total = _sum(total, done)
            if progress is not None:
                progress(total)
            if after is None:
                return total

    async def aprune(
        self, *, idle: timedelta | None = None, keep_messages: int | None = None, dry_run: bool = True,
        batch: int = 500, progress: Callable[[Pruned], None] | None = None,
    ) -> Pruned:  # fmt: skip
        """Async version of prune."""
        total, after = None, None
        _callable(progress)
        while True:
            done, after = await self._ado(self._prune(idle, keep_messages, dry_run, batch, after))
            total = _sum(total, done)
            if progress is not None:
                progress(total)
            if after is None:
                return total

    def _prune(
        self, idle: Any, keep_messages: Any, dry_run: Any, batch: Any, after: str | None
    ) -> Call[tuple[Pruned, str | None]]:
        return prune(
            idle=idle, keep_messages=keep_messages, dry_run=dry_run, batch=batch, user_id=self._user_id, after=after
        )

    def delete_user(self, user_id: str, *, batch: int = 500) -> Pruned:
        """Remove all that is stored of one person, and tell how much that was.

        Of each session a tombstone without content stays (ids, times and counters), so that nothing that was still on
        its way comes back. Should this be interrupted, call it again.

        Args:
            batch: How much one transaction removes at most, in sessions, messages and turns together; up to 10,000.

        Raises:
            InvalidInput: The user id cannot be right, or this store is another user's.
            Forbidden: Row level security: it is another user than the one who is signed in.
        """
        total, more = None, True
        while more:
            done, more = self._do(self._delete_user(user_id, batch))
            total = _sum(total, done)
        assert total is not None
        return total

    async def adelete_user(self, user_id: str, *, batch: int = 500) -> Pruned:
        """Async version of delete_user."""
        total, more = None, True
        while more:
            done, more = await self._ado(self._delete_user(user_id, batch))
            total = _sum(total, done)
        assert total is not None
        return total

    def _delete_user(self, user_id: str, batch: int) -> Call[tuple[Pruned, bool]]:
        if self._user_id not in (None, user_id):
            raise InvalidInput("This store is another user's: call delete_user on the one that for_user was called on.")
        return delete_user(user_id, batch=batch)


# --- the command ------------------------------------------------------------------------------------------------------


def run_prune(
    store: HistoryStore, idle: timedelta | None, keep_messages: int | None, user_id: str | None, yes: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """`langchain-supabase-history prune`: count, or with `yes` remove, telling of each batch on a terminal."""
    import click

    on_terminal = sys.stderr.isatty() and not as_json

    def tell(total: Pruned) -> None:
        click.echo(f"\r{_in_words(total)} ...", err=True, nl=False)

    with store:
        view = store if user_id is None else store.for_user(user_id)
        total = view.prune(
            idle=idle, keep_messages=keep_messages, dry_run=not yes, progress=tell if on_terminal else None
        )
    if on_terminal:
        click.echo(err=True)
    if as_json:
        click.echo(json.dumps(asdict(total)))
    elif not any((total.sessions, total.trimmed, total.messages, total.turns, total.feedback)):
        click.echo("Nothing to remove.")
    elif yes:
        click.echo(f"Removed {_in_words(total)}.")
    else:
        click.echo(f"Would remove {_in_words(total)}. Nothing was changed: run it again with --yes.")


def _in_words(total: Pruned) -> str:
    def some(count: int, noun: str) -> str:
        return f"{count:,} {noun}" + ("" if count == 1 else "s")

    return ", ".join([
        some(total.sessions, "session"),
        f"{some(total.messages, 'message')} ({some(total.trimmed, 'session')} trimmed)",
        some(total.turns, "turn"), f"{total.feedback:,} of feedback",
    ])  # fmt: skip
