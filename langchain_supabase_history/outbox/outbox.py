"""An outbox: appends that could not be sent wait in a file until the database is back.

On a disk that is lost at restart, as on Streamlit Cloud, it bridges outages, not restarts.

What waits is the call as it would have been sent, row ids and epoch included: sent late or twice, it is stored once,
and what was cleared or deleted meanwhile stays so, where the session's epoch was known when it was kept. The content
lies in the file as plain text until it is sent.

What waits of a session is sent in one flight at a time, in a thread of its own; whoever needs it sent shares that. An
erasure takes the flight's place, so that nothing of its session is under way while it is.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from langchain_core.messages import BaseMessage

from ..core.call import Call
from ..core.identity import Identity, token_subject
from ..core.settings import as_path
from ..errors import (
    Conflict,
    Forbidden,
    HistoryError,
    InvalidInput,
    NotConfigured,
    OutboxFailed,
    StoreClosed,
    Unavailable,
)
from ..operations.branches import FORK, POP, REWIND
from ..operations.messages import APPEND
from ..operations.retention import DELETE_USER
from ..operations.sessions import CLEAR, DELETE_SESSION
from .file import Waiting, listed, messages_of, open_file, packed, unpacked

if TYPE_CHECKING:
    from ..drivers.base import Driver

logger = logging.getLogger(__name__)
T = TypeVar("T")
F = TypeVar("F", bound=Future[Any])
_Key = tuple[str, str]  # whose session ('': the application's own), and its name
_Asking = Mapping[str, Identity | None]  # who asks that something be sent, with a token as it is now

_FIRST_PAUSE: Final = 1.0  # seconds until the background tries again, doubled up to the longest
_LONGEST_PAUSE: Final = 30.0
_AWAY: Final = 3  # so many sessions in a row that were Unavailable: it is the database, not they
_EPOCHS: Final = 10_000  # sessions whose epoch is remembered


class _Sent(NamedTuple):
    """What came of a flight: how many appends were stored, and why the next still waits."""

    stored: int
    error: HistoryError | None


class _Hold(Future[_Sent]):
    """Stands in the place of a session's flight while the session is erased."""


class _Stuck(NamedTuple):
    """Why what waits of a session could not be sent, and until when an append need not try it again."""

    until: float
    error: HistoryError


class _Operation:
    """A call on its way, with all that is asked about it once: an access token may cost its application a request.

    Attributes:
        identity: As whom it runs, the token being what it was at the beginning.
        given: The same as the application gave it, for a fresh token later.
        subject: The user whom the token, or a client of the application's, is of; '' for the store's own.
        hold: Of an erasure of a session.
        upto: Of an erasure: the last that waited before it.
        tried: Why the flight before it could not send what waits.
        epoch: The session's, where the reply tells it.
    """

    def __init__(self, call: Call[Any], given: Identity | None, identity: Identity | None, subject: str) -> None:
        self.given, self.identity, self.subject = given, identity, subject
        self.epoch: int | None = None

        def parse(raw: Any) -> Any:
            self.epoch = raw["epoch"]
            return call.parse(raw)

        self.call = replace(call, parse=parse) if call.function in (APPEND, CLEAR) else call
        self.user_id = call.args.get("user_id") or ""
        self.key: _Key = (self.subject or self.user_id, call.args.get("session_id") or "")
        self.is_append = call.function == APPEND
        self.erased_user = self.user_id if call.function == DELETE_USER else None
        self.hold = _begun(_Hold()) if call.function in (CLEAR, DELETE_SESSION) else None
        self.upto = 0
        self.kept = False
        self.tried: HistoryError | None = None

    def may_be_late(self) -> bool:
        """Whether it is an append that may be kept.

        One that replaces all there is would wipe what others write before it is sent; one that names another user than
        its token is refused whenever it comes.
        """
        another = self.subject and self.user_id and self.subject != self.user_id
        return self.is_append and not self.call.args.get("replace") and not another


class Outbox:
    """The appends of one store that wait for the database, in a SQLite file that one process owns.

    Args:
        path: The file, made at need.
        driver: Sends them.
        tell: Told of messages that will never be stored, and why.

    Raises:
        NotConfigured: Another process owns the file, or it is damaged, or it cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], driver: Driver[Any], tell: Callable[[HistoryError, list[BaseMessage]], None]
    ) -> None:
        self.path = as_path(path, "outbox")
        self._driver = driver
        self._tell = tell
        self._pid = os.getpid()
        self._lock = threading.Lock()  # of all below; never held while something is sent or told
        self._db: sqlite3.Connection | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._patience = driver.deadline + 1  # seconds in which a try has come to its end
        self._pause = _FIRST_PAUSE
        self._waiting: set[_Key] = set()  # every session with something waiting, and maybe some with nothing any more
        self._flights: dict[_Key, Future[_Sent]] = {}
        self._stuck: dict[_Key, _Stuck] = {}
        self._epochs: dict[_Key, int] = {}  # as last seen, the oldest first
        self._identities: dict[str, Identity | None] = {}  # of each subject with something waiting, once it was here
        self._open()
        _outboxes.add(self)

    # --- the file

    def _open(self) -> None:
        if self._pid != os.getpid():  # before any lock: a thread that a forked child does not have may hold it
            raise OutboxFailed(
                f"The outbox {self.path} belongs to the process that opened it, not to its child.",
                advice="Make the store after the fork, with a file of its own.",
            )
        if self._db is not None:
            return
        with self._lock:
            if self._db is None:
                self._db = db = open_file(self.path)
                self._end = threading.Event()
                query = "select distinct owner, session_id, subject from waiting where refused is null"
                rows = db.execute(query).fetchall()
                self._waiting = {(owner, session) for owner, session, _ in rows}
                self._identities = {subject: self._identities.get(subject) for _, _, subject in rows if subject}
                if rows:
                    self._start()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """The file, locked. What began before `close` does not open it again."""
        with self._lock:
            if self._db is None:
                raise StoreClosed("The store was closed while this operation ran.")
            try:
                yield self._db
            except sqlite3.Error as error:
                raise OutboxFailed(f"The outbox {self.path} could not be used: {error}.") from error

    def _head(self, db: sqlite3.Connection, key: _Key) -> tuple[int, str] | None:
        """The id and the subject of what is to be sent next of a session; without any, it is forgotten."""
        query = "select id, subject from waiting where owner = ? and session_id = ? and refused is null order by id"
        if (head := db.execute(f"{query} limit 1", key).fetchone()) is not None:
            return cast("tuple[int, str]", head)
        self._waiting.discard(key)
        self._stuck.pop(key, None)
        query = "select 1 from waiting where owner = ? and refused is null limit 1"
        if key[0] in self._identities and db.execute(query, key[:1]).fetchone() is None:
            del self._identities[key[0]]
        return None

    def waiting(self) -> list[Waiting]:
        """What is in the outbox, in the order in which it came; what was refused for good is there too."""
        self._open()
        with self._connection() as db:
            return listed(db)

    # --- the store's calls pass through here

    def execute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Execute a call, after what waits of its session. An append that cannot be sent is kept, and answers []."""
        if not self._concerns(call) or not self._is_usable(call):
            return self._driver.execute(call, identity)
        op = self._operation(call, identity)
        try:
            while not self._is_free(op) and (flight := self._before(op)) is not None:
                wait([flight], self._patience)
                op.tried = _came_of(flight)
            reply: T = self._driver.execute(op.call, op.identity)
            return self._noted(op, reply)
        except Unavailable as error:
            if not self._keep(op, error):
                raise
            return cast("T", [])
        finally:
            self._release(op)

    async def aexecute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Async version of execute. An append that is cancelled is kept too: it may not have been stored."""
        if not self._concerns(call) or not self._is_usable(call):
            return await self._driver.aexecute(call, identity)
        if identity is not None and callable(identity.token):
            op = await asyncio.to_thread(self._operation, call, identity)
        else:
            op = self._operation(call, identity)
        try:
            try:
                while not self._is_free(op) and (flight := await asyncio.to_thread(self._before, op)) is not None:
                    await asyncio.wait([asyncio.wrap_future(flight)], timeout=self._patience)
                    op.tried = _came_of(flight)
                reply: T = await self._driver.aexecute(op.call, op.identity)
                return self._noted(op, reply)
            except Unavailable as error:
                if not await asyncio.to_thread(self._keep, op, error):
                    raise
                return cast("T", [])
        except asyncio.CancelledError:
            try:
                self._keep(op)  # at once: what is awaited now may be cancelled as well
            except HistoryError as error:
                self._tell(error, messages_of(call.args))
            raise
        finally:
            self._release(op)

    def _concerns(self, call: Call[Any]) -> bool:
        of_session = call.args.get("session_id") is not None or call.function == DELETE_USER
        return of_session and self._pid == os.getpid()  # a forked child leaves the outbox to its parent

    def _is_usable(self, call: Call[Any]) -> bool:
        """Whether the file can be used. One that was damaged while the store was closed does not keep it from reading.

        Raises:
            NotConfigured: It cannot, and the call is an append or an erasure.
        """
        try:
            self._open()
        except NotConfigured as error:
            if call.function in (APPEND, CLEAR, DELETE_SESSION, DELETE_USER):
                raise
            self._tell(error, [])
            return False
        return True

    def _operation(self, call: Call[Any], given: Identity | None) -> _Operation:
        self._open()
        return _Operation(call, given, *self._who(given))

    def _who(self, given: Identity | None) -> tuple[Identity | None, str]:
        """As whom to run, the token as it is now, and the user that is; what waits of them can be sent from here on."""
        if given is None:
            return None, self._driver.signed_in()
        if given.claims is not None:
            identity, subject = given, str(given.claims["sub"])
        else:
            identity = Identity(given.access_token())
            subject = token_subject(identity.access_token()) or ""
            if not subject:
                raise Forbidden("The access token names no user.")
        if subject in self._identities:
            self._identities[subject] = given
        return identity, subject

    def _is_free(self, op: _Operation) -> bool:
        """Whether there is nothing to see to before an operation: the usual case, without lock or file."""
        erases = op.hold is not None or op.erased_user is not None
        return not erases and op.key not in self._waiting and op.key not in self._flights and self._db is not None

    def _before(self, op: _Operation) -> Future[_Sent] | None:
        """The flight that must end before an operation may be sent; None when it may.

        Raises:
            HistoryError: What waits before it cannot be sent now. A read goes on unless the database is away.
        """
        with self._connection() as db:
            flight = self._flights.get(op.key)
            if op.erased_user is not None:
                self._strike(db, op)
                return next((f for key, f in self._flights.items() if key[0] == op.erased_user), None)
            if op.hold is not None:
                if flight is None and not op.hold.done():
                    self._flights[op.key] = op.hold
                    (op.upto,) = db.execute("select coalesce(max(id), 0) from waiting").fetchone()
                return flight
            if (head := self._head(db, op.key)) is None:
                return flight
            error, stuck = op.tried, self._stuck.get(op.key)
            if error is None and stuck is not None and time.monotonic() < stuck.until:
                # It was tried just now: an append is kept at once, a read finds out for itself whether it is back.
                error = _anew(stuck.error) if op.is_append or not isinstance(stuck.error, Unavailable) else None
            if error is not None and (op.is_append or isinstance(error, Unavailable)):
                raise error
            if error is not None:
                return None
            flight = flight or self._take_off(op.key, head, {op.subject: op.identity})
            if flight is None and op.is_append:
                raise Unavailable("What waits of this session needs its user's access token first.", advice="")
            return flight

    def _noted(self, op: _Operation, reply: T) -> T:
        """Strike what an operation has erased, and remember its session's epoch: what waits of it carries that."""
        if op.erased_user is not None or op.hold is not None:
            with self._connection() as db:
                self._strike(db, op)
        if op.call.function in (FORK, POP, REWIND):  # a raised epoch that the reply does not tell, or another session's
            with self._lock:
                self._epochs.pop(op.key, None)
            return reply
        epoch = getattr(reply, "epoch", op.epoch)
        if epoch is not None:
            with self._lock:
                self._epochs[op.key] = max(epoch, self._epochs.pop(op.key, epoch))
                if len(self._epochs) > _EPOCHS:
                    del self._epochs[next(iter(self._epochs))]
        return reply

    def _strike(self, db: sqlite3.Connection, op: _Operation) -> None:
        """Strike what is erased, what was refused included, and forget the epochs that the erasure raises."""
        if op.erased_user is None:
            erased, keys = (*op.key, op.upto), {op.key}
            db.execute("delete from waiting where owner = ? and session_id = ? and id <= ?", erased)
        else:
            keys = {key for key in self._waiting | set(self._epochs) if key[0] == op.erased_user}
            db.execute("delete from waiting where owner = ?", [op.erased_user])
        for key in keys:
            self._epochs.pop(key, None)
            self._head(db, key)

    def _release(self, op: _Operation) -> None:
        if op.hold is not None:
            with self._lock:
                if self._flights.get(op.key) is op.hold:
                    del self._flights[op.key]
                op.hold.set_result(_Sent(0, None))

    def _keep(self, op: _Operation, error: Unavailable | None = None) -> bool:
        """Keep an append, and tell whether it may be kept.

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
        with self._connection() as db:
            if op.kept:
                return True
            if op.key in self._epochs:
                arguments.setdefault("epoch", self._epochs[op.key])
            text = packed(arguments)
            db.execute(
                "insert into waiting (owner, session_id, subject, messages, kept_at, arguments)"
                " values (?, ?, ?, ?, ?, ?)",
                (*op.key, op.subject, count, datetime.now(UTC).isoformat(), text),
            )
            op.kept = True
            self._waiting.add(op.key)
            if op.subject:
                self._identities[op.subject] = op.given or self._identities.get(op.subject)
            if error is not None:
                self._stuck.setdefault(op.key, _Stuck(time.monotonic() + self._pause, _anew(error)))
            self._start()
        logger.warning("the database is away: %d messages of a session wait in the outbox", count)
        return True

    # --- sending

    def send(self, identity: Identity | None = None) -> int:
        """Send what waits, each session's in order, and tell how many appends were stored.

        A session whose append cannot be sent now keeps the rest of it waiting; other sessions go on, until several in a
        row show that the database is away. What needs the token of a user who is not here waits on.

        Raises:
            HistoryError: The first error of an append that still waits.
        """
        self._open()
        now, subject = self._who(identity)
        sent = self._send_all({subject: now})
        if sent.error is not None:
            raise sent.error
        return sent.stored

    def _send_all(self, asking: _Asking) -> _Sent:
        stored, first, away = 0, None, 0
        with self._connection() as db:
            query = "select owner, session_id from waiting where refused is null group by 1, 2 order by min(id)"
            keys: list[_Key] = db.execute(query).fetchall()
        for key in keys:
            with self._connection() as db:
                flight = self._flights.get(key)
                if flight is None and (head := self._head(db, key)) is not None:
                    flight = self._take_off(key, head, asking)
            if flight is not None and not isinstance(flight, _Hold):
                sent = flight.result()
                stored, first = stored + sent.stored, first or sent.error
                away = away + 1 if isinstance(sent.error, Unavailable) else 0
            if away == _AWAY or self._end.is_set():
                break
        return _Sent(stored, first)

    def _take_off(self, key: _Key, head: tuple[int, str], asking: _Asking) -> Future[_Sent] | None:
        """Begin to send what waits of a session; None where that needs a user who is not here. The lock is held."""
        if not self._can_send(head[1], asking):
            return None
        flight = _begun(Future[_Sent]())
        threading.Thread(target=self._fly, args=(key, asking, flight), name="outbox-flight", daemon=True).start()
        self._flights[key] = flight
        return flight

    def _can_send(self, subject: str, asking: _Asking) -> bool:
        if not subject or subject in asking or self._identities.get(subject) is not None:
            return True
        return subject == self._driver.signed_in()

    def _fly(self, key: _Key, asking: _Asking, flight: Future[_Sent]) -> None:
        stored, error, lost = 0, None, list[tuple[HistoryError, list[BaseMessage]]]()
        try:
            while (entry := self._next(key, asking)) is not None:
                refusal = self._send(*entry)
                stored += refusal is None
                if refusal is not None:
                    lost.append((refusal, messages_of(entry[1].args)))
        except HistoryError as caught:
            error = caught
        except Exception as caught:  # the application's: what gives an access token may fail, and mend itself
            error = HistoryError(f"What waits could not be sent: {type(caught).__name__}.", advice="It is tried again.")
            error.__cause__ = caught
            logger.warning("what waits in the outbox could not be sent: %s", type(caught).__name__)
        with self._lock:
            del self._flights[key]
            if error is not None and key in self._waiting:
                self._stuck[key] = _Stuck(time.monotonic() + self._pause, _anew(error))
        try:
            for refusal, messages in lost:
                self._tell(refusal, messages)
        finally:
            flight.set_result(_Sent(stored, error))

    def _next(self, key: _Key, asking: _Asking) -> tuple[int, Call[Any], Identity | None] | None:
        with self._connection() as db:
            if self._end.is_set():
                raise StoreClosed("The store was closed while this operation ran.")
            if (head := self._head(db, key)) is None or not self._can_send(head[1], asking):
                return None
            id, subject = head
            (text,) = db.execute("select arguments from waiting where id = ?", [id]).fetchone()
        arguments = unpacked(text)
        return id, Call(APPEND, arguments, lambda reply: reply), asking.get(subject) or self._identities.get(subject)

    def _send(self, id: int, call: Call[Any], identity: Identity | None) -> HistoryError | None:
        """Send one append, and tell why it was refused for good; what else is raised may mend itself."""
        refusal: HistoryError | None = None
        try:
            self._driver.execute(call, identity)
        except Conflict as error:  # cleared or deleted meanwhile: not to come back, nor to stay in this file
            refusal = error
        except InvalidInput as error:
            if error.code is None:  # not the database's word
                raise
            with self._connection() as db:  # kept, for a person to look at
                db.execute("update waiting set refused = ? where id = ?", (str(error), id))
            return error
        with self._connection() as db:
            db.execute("delete from waiting where id = ?", [id])
        return refusal

    # --- in the background

    def _start(self) -> None:
        """See to it that the background runs. The lock is held."""
        if not self._end.is_set() and (self._thread is None or not self._thread.is_alive()):
            args = (weakref.ref(self), self._end)
            self._thread = threading.Thread(target=_background, args=args, name="outbox", daemon=True)
            self._thread.start()

    def _goes_on(self) -> bool:
        """One round of the background, and whether it is to go on."""
        try:
            sent = self._send_all({})
            self._pause = _FIRST_PAUSE if sent.stored else min(self._pause * 2, _LONGEST_PAUSE)
            with self._connection() as db:
                if db.execute("select 1 from waiting where refused is null limit 1").fetchone() is not None:
                    return True
                self._pause = _FIRST_PAUSE
                if self._thread is threading.current_thread():
                    self._thread = None  # under the lock: what is kept from here on starts another
                return False
        except Exception as error:
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            if not self._end.is_set():
                logger.warning("the outbox could not be seen to, and is tried again: %s", type(error).__name__)
            return True

    def close(self) -> None:
        """Give the file back, once what is under way has had its try; used again, it opens again. What waits stays."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._end.set()
            self._thread = None
            flights = list(self._flights.values())
        wait(flights, self._patience)
        with self._lock:
            db, self._db = self._db, None
            self._stuck.clear()
            if db is not None:
                db.close()

    def __del__(self) -> None:
        if getattr(self, "_pid", None) == os.getpid():
            self._end.set()
            if self._db is not None:
                self._db.close()


def _background(ref: weakref.ref[Outbox], end: threading.Event) -> None:
    """Send what waits from time to time. Between times it does not hold the outbox, which may have been dropped."""
    while (outbox := ref()) is not None:
        pause = outbox._pause
        del outbox
        if end.wait(pause) or (outbox := ref()) is None or not outbox._goes_on():
            return


_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _leave_to_parent() -> None:
    # A child that ends closes what it inherited, and SQLite then removes the log that its parent still writes to. One
    # reference too many keeps it from that.
    for outbox in list(_outboxes):
        if outbox._db is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(outbox._db))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _begun(flight: F) -> F:
    flight.set_running_or_notify_cancel()  # who waits for it may be cancelled; it is not
    return flight


def _came_of(flight: Future[_Sent]) -> HistoryError | None:
    if not flight.done():
        raise Unavailable("What waits of this session is still being sent.", advice="Try again.")
    return flight.result().error


def _anew(error: HistoryError) -> HistoryError:
    """The error again, without its traceback: the frames there hold messages."""
    return type(error)(error.says, code=error.code, advice=error.advice)
