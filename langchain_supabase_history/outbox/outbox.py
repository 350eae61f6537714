"""An outbox: appends that could not be sent wait in a file until the database is back.

On a disk that is lost at restart, as on Streamlit Cloud, it bridges outages, not restarts.

What waits is the call as it would have been sent, row ids and epoch included: sent late or twice, it is stored once,
and what was cleared or deleted meanwhile stays so, where the session's epoch was known when it was kept. The content
lies in the file as plain text until it is sent.

What waits of a session is sent in one delivery at a time, in a thread of its own; whoever needs it sent shares that. An
erasure takes the delivery's place, so that nothing of its session is under way while it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

from ..core.call import Call
from ..core.identity import Identity
from ..drivers.base import refuse_at_the_end
from ..errors import HistoryError, NotConfigured, Unavailable
from ..operations.branches import FORK, POP, REWIND
from ..operations.messages import APPEND
from ..operations.retention import DELETE_USER
from ..operations.sessions import CLEAR, DELETE_SESSION
from .file import messages_of, packed
from .operation import Blocked, Operation, Sent, outcome_of, without_traceback
from .sending import Sender

logger: Final = logging.getLogger(__name__)
T = TypeVar("T")

EPOCHS: Final = 10_000  # sessions whose epoch is remembered


class Outbox(Sender):
    """The appends of one store that wait for the database, in a SQLite file that one process owns.

    See `Queue` for its arguments.
    """

    def execute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Execute a call, after what waits of its session. An append that cannot be sent is kept, and answers []."""
        refuse_at_the_end()
        if not self._concerns(call) or not self._is_usable(call):
            return self.driver.execute(call, identity)
        op = self._operation(call, identity)
        try:
            while not self._is_free(op) and (delivery := self._before(op)) is not None:
                wait([delivery], self.patience)
                op.tried = outcome_of(delivery)
            reply: T = self.driver.execute(op.call, op.identity)
            return self._record(op, reply)
        except Unavailable as error:
            if not self._keep(op, error):
                raise
            return cast("T", [])
        finally:
            self._release(op)

    async def aexecute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Async version of execute. An append that is cancelled is kept too: it may not have been stored."""
        refuse_at_the_end()
        if not self._concerns(call) or not self._is_usable(call):
            return await self.driver.aexecute(call, identity)
        if identity is not None and callable(identity.token):
            op = await asyncio.to_thread(self._operation, call, identity)
        else:
            op = self._operation(call, identity)
        try:
            try:
                while not self._is_free(op) and (delivery := await asyncio.to_thread(self._before, op)) is not None:
                    await asyncio.wait([asyncio.wrap_future(delivery)], timeout=self.patience)
                    op.tried = outcome_of(delivery)
                reply: T = await self.driver.aexecute(op.call, op.identity)
                return self._record(op, reply)
            except Unavailable as error:
                if not await asyncio.to_thread(self._keep, op, error):
                    raise
                return cast("T", [])
        except asyncio.CancelledError:
            try:
                self._keep(op)  # at once: what is awaited now may be cancelled as well
            except HistoryError as error:
                self.report(error, messages_of(call.args))
            raise
        finally:
            self._release(op)

    def _concerns(self, call: Call[Any]) -> bool:
        of_session = call.args.get("session_id") is not None or call.function == DELETE_USER
        return of_session and self.pid == os.getpid()  # a forked child leaves the outbox to its parent

    def _is_usable(self, call: Call[Any]) -> bool:
        """Whether the file can be used. One that was damaged while the store was closed does not keep it from reading.

        Raises:
            NotConfigured: It cannot, and the call is an append or an erasure.
        """
        try:
            self.open()
        except NotConfigured as error:
            if call.function in (APPEND, CLEAR, DELETE_SESSION, DELETE_USER):
                raise
            self.report(error, [])
            return False
        return True

    def _operation(self, call: Call[Any], given: Identity | None) -> Operation:
        self.open()
        return Operation(call, given, *self.who(given))

    def _is_free(self, op: Operation) -> bool:
        """Whether there is nothing to wait for before an operation: the usual case, without lock or file."""
        erases = op.hold is not None or op.erased_user is not None
        return not erases and op.key not in self.sessions and op.key not in self.deliveries and self.db is not None

    def _before(self, op: Operation) -> Future[Sent] | None:
        """The delivery that must end before an operation may be sent; None when it may.

        Raises:
            HistoryError: What waits before it cannot be sent now. A read goes on unless the database is away.
        """
        with self.connection() as db:
            delivery = self.deliveries.get(op.key)
            if op.erased_user is not None:
                self._discard(db, op)
                return next((f for key, f in self.deliveries.items() if key[0] == op.erased_user), None)
            if op.hold is not None:
                if delivery is None and not op.hold.done():
                    self.deliveries[op.key] = op.hold
                    (op.upto,) = db.execute("select coalesce(max(id), 0) from waiting").fetchone()
                return delivery
            if (head := self.head(db, op.key)) is None:
                return delivery
            error, blocked = op.tried, self.blocked.get(op.key)
            # It was tried just now: an append is kept at once, a read finds out for itself whether it is back.
            if (
                error is None
                and blocked is not None
                and time.monotonic() < blocked.until
                and (op.is_append or not isinstance(blocked.error, Unavailable))
            ):
                error = without_traceback(blocked.error)
            if error is not None and (op.is_append or isinstance(error, Unavailable)):
                raise error
            if error is not None:
                return None
            delivery = delivery or self.begin_delivery(op.key, head, {op.subject: op.identity})
            if delivery is None and op.is_append:
                raise Unavailable("What waits of this session needs its user's access token first.", advice="")
            return delivery

    def _record(self, op: Operation, reply: T) -> T:
        """Discard what an operation has erased, and remember its session's epoch: what waits of it carries that."""
        if op.erased_user is not None or op.hold is not None:
            with self.connection() as db:
                self._discard(db, op)
        if op.call.function in (
            FORK,
            POP,
            REWIND,
        ):  # its reply lacks the raised epoch, or has another session's
            with self.lock:
                self.epochs.pop(op.key, None)
            return reply
        epoch = getattr(reply, "epoch", op.epoch)
        if epoch is not None:
            with self.lock:
                self.epochs[op.key] = max(epoch, self.epochs.pop(op.key, epoch))
                if len(self.epochs) > EPOCHS:
                    del self.epochs[next(iter(self.epochs))]
        return reply

    def _discard(self, db: sqlite3.Connection, op: Operation) -> None:
        """Discard what is erased, what was refused included, and forget the epochs that the erasure raises."""
        if op.erased_user is None:
            erased, keys = (*op.key, op.upto), {op.key}
            db.execute("delete from waiting where owner = ? and session_id = ? and id <= ?", erased)
        else:
            keys = {key for key in self.sessions | set(self.epochs) if key[0] == op.erased_user}
            db.execute("delete from waiting where owner = ?", [op.erased_user])
        for key in keys:
            self.epochs.pop(key, None)
            self.head(db, key)

    def _release(self, op: Operation) -> None:
        if op.hold is not None:
            with self.lock:
                if self.deliveries.get(op.key) is op.hold:
                    del self.deliveries[op.key]
                op.hold.set_result(Sent(0, None))

    def _keep(self, op: Operation, error: Unavailable | None = None) -> bool:
        """Keep an append, and report whether it may be kept.

        Raises:
            OutboxFailed: The file could not be written (a full disk, say).
            StoreClosed: The file was closed meanwhile.
        """
        if not op.may_be_late():
            return False
        arguments = {**op.call.arguments(replay=True), "replay": True}
        if op.subject:
            arguments["user_id"] = op.subject  # sent later, it must not become another's who is signed in then
        count = len(arguments["ids"])
        with self.connection() as db:
            if op.kept:
                return True
            if op.key in self.epochs:
                arguments.setdefault("epoch", self.epochs[op.key])
            text = packed(arguments)
            db.execute(
                "insert into waiting (owner, session_id, subject, messages, kept_at, arguments)"
                " values (?, ?, ?, ?, ?, ?)",
                (*op.key, op.subject, count, datetime.now(UTC).isoformat(), text),
            )
            op.kept = True
            self.sessions.add(op.key)
            if op.subject:
                self.identities[op.subject] = op.given or self.identities.get(op.subject)
            if error is not None:
                self.blocked.setdefault(op.key, Blocked(time.monotonic() + self.pause, without_traceback(error)))
            self.start()
        logger.warning("the database is away: %d messages of a session wait in the outbox", count)
        return True
