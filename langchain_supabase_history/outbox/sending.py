"""Sending what waits: one delivery a session at a time, each in a thread of its own; the background tries again."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from concurrent.futures import Future, wait
from typing import Any, Final

from langchain_core.messages import BaseMessage

from ..core.call import Call
from ..core.identity import Identity, token_subject
from ..errors import Conflict, Forbidden, HistoryError, InvalidInput, StoreClosed, Unavailable
from ..operations.messages import APPEND
from . import queue
from .file import messages_of, unpacked
from .operation import Asking, Blocked, Hold, Key, Sent, begun, without_traceback
from .queue import Queue

logger: Final = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 30.0
AWAY: Final = 3  # so many sessions in a row that were Unavailable: it is the database, not they


class Sender(Queue):
    """Sends what waits."""

    def open(self) -> bool:
        """Open the file, where it is not open, and start the background where something waits in it."""
        found = super().open()
        if found:
            with self.lock:
                self.start()
        return found

    def who(self, given: Identity | None) -> tuple[Identity | None, str]:
        """As whom to run, the token as it is now, and the user that is; what waits of them can be sent from here on."""
        if given is None:
            return None, self.driver.signed_in()
        if given.claims is not None:
            identity, subject = given, str(given.claims["sub"])
        else:
            identity = Identity(given.access_token())
            subject = token_subject(identity.access_token()) or ""
            if not subject:
                raise Forbidden("The access token names no user.")
        if subject in self.identities:
            self.identities[subject] = given
        return identity, subject

    def send(self, identity: Identity | None = None) -> int:
        """Send what waits, each session's in order, and report how many appends were stored.

        A session whose append cannot be sent now keeps the rest of it waiting; other sessions go on, until several in a
        row show that the database is away. What needs the token of a user who is not here waits on.

        Raises:
            HistoryError: The first error of an append that still waits.
        """
        self.open()
        now, subject = self.who(identity)
        sent = self.send_all({subject: now})
        if sent.error is not None:
            raise sent.error
        return sent.stored

    def send_all(self, asking: Asking) -> Sent:
        """Send what waits of each session, as far as it can be sent for those who ask."""
        stored, first, away = 0, None, 0
        with self.connection() as db:
            query = "select owner, session_id from waiting where refused is null group by 1, 2 order by min(id)"
            keys: list[Key] = db.execute(query).fetchall()
        for key in keys:
            with self.connection() as db:
                delivery = self.deliveries.get(key)
                if delivery is None and (head := self.head(db, key)) is not None:
                    delivery = self.begin_delivery(key, head, asking)
            if delivery is not None and not isinstance(delivery, Hold):
                sent = delivery.result()
                stored, first = stored + sent.stored, first or sent.error
                away = away + 1 if isinstance(sent.error, Unavailable) else 0
            if away == AWAY or self.end.is_set():
                break
        return Sent(stored, first)

    def begin_delivery(self, key: Key, head: tuple[int, str], asking: Asking) -> Future[Sent] | None:
        """Begin to send what waits of a session; None where that needs a user who is not here. The lock is held."""
        if not self.can_send(head[1], asking):
            return None
        delivery = begun(Future[Sent]())
        threading.Thread(
            target=self._deliver, args=(key, asking, delivery), name="outbox-delivery", daemon=True
        ).start()
        self.deliveries[key] = delivery
        return delivery

    def can_send(self, subject: str, asking: Asking) -> bool:
        """Whether what waits of a user can be sent: their token was given, or none is needed."""
        if not subject or subject in asking or self.identities.get(subject) is not None:
            return True
        return subject == self.driver.signed_in()

    def _deliver(self, key: Key, asking: Asking, delivery: Future[Sent]) -> None:
        stored, error, lost = 0, None, list[tuple[HistoryError, list[BaseMessage]]]()
        try:
            while (entry := self._next(key, asking)) is not None:
                refusal = self._send(*entry)
                stored += refusal is None
                if refusal is not None:
                    lost.append((refusal, messages_of(entry[1].args)))
        except HistoryError as caught:
            error = caught
        except Exception as caught:  # the application's: what gives an access token may fail, and succeed later
            error = HistoryError(f"What waits could not be sent: {type(caught).__name__}.", advice="It is tried again.")
            error.__cause__ = caught
            logger.warning("what waits in the outbox could not be sent: %s", type(caught).__name__)
        with self.lock:
            del self.deliveries[key]
            if error is not None and key in self.sessions:
                self.blocked[key] = Blocked(time.monotonic() + self.pause, without_traceback(error))
        try:
            for refusal, messages in lost:
                self.report(refusal, messages)
        finally:
            delivery.set_result(Sent(stored, error))

    def _next(self, key: Key, asking: Asking) -> tuple[int, Call[Any], Identity | None] | None:
        with self.connection() as db:
            if self.end.is_set():
                raise StoreClosed("The store was closed while this operation ran.")
            if (head := self.head(db, key)) is None or not self.can_send(head[1], asking):
                return None
            id, subject = head
            (text,) = db.execute("select arguments from waiting where id = ?", [id]).fetchone()
        arguments = unpacked(text)
        return id, Call(APPEND, arguments, lambda reply: reply), asking.get(subject) or self.identities.get(subject)

    def _send(self, id: int, call: Call[Any], identity: Identity | None) -> HistoryError | None:
        """Send one append, and report why it was refused for good; what else is raised may be temporary."""
        refusal: HistoryError | None = None
        try:
            self.driver.execute(call, identity)
        except Conflict as error:  # cleared or deleted meanwhile: not to come back, nor to stay in this file
            refusal = error
        except InvalidInput as error:
            if error.code is None:  # not the database's word
                raise
            with self.connection() as db:  # kept, for a person to look at
                db.execute("update waiting set refused = ? where id = ?", (str(error), id))
            return error
        with self.connection() as db:
            db.execute("delete from waiting where id = ?", [id])
        return refusal

    # --- in the background

    def start(self) -> None:
        """See to it that the background runs. The lock is held."""
        if not self.end.is_set() and (self.thread is None or not self.thread.is_alive()):
            args = (weakref.ref(self), self.end)
            self.thread = threading.Thread(target=_background, args=args, name="outbox", daemon=True)
            self.thread.start()

    def goes_on(self) -> bool:
        """One round of the background, and whether it is to go on."""
        try:
            sent = self.send_all({})
            self.pause = queue.FIRST_PAUSE if sent.stored else min(self.pause * 2, LONGEST_PAUSE)
            with self.connection() as db:
                if db.execute("select 1 from waiting where refused is null limit 1").fetchone() is not None:
                    return True
                self.pause = queue.FIRST_PAUSE
                if self.thread is threading.current_thread():
                    self.thread = None  # under the lock: what is kept from here on starts another
                return False
        except Exception as error:
            self.pause: float = min(self.pause * 2, LONGEST_PAUSE)
            if not self.end.is_set():
                logger.warning("the outbox could not be sent, and is tried again: %s", type(error).__name__)
            return True

    def close(self) -> None:
        """Give the file back, once what is under way has had its try; used again, it opens again. What waits stays."""
        if self.pid != os.getpid():
            return
        with self.lock:
            self.end.set()
            self.thread = None
            deliveries = list(self.deliveries.values())
        wait(deliveries, self.patience)
        with self.lock:
            db = self.db
            self.db: sqlite3.Connection | None = None
            self.blocked.clear()
            if db is not None:
                db.close()

    def __del__(self) -> None:
        if getattr(self, "pid", None) == os.getpid():
            self.end.set()
            if self.db is not None:
                self.db.close()


def _background(ref: weakref.ref[Sender], end: threading.Event) -> None:
    """Send what waits from time to time. Between times it does not hold the outbox, which may have been dropped."""
    while (outbox := ref()) is not None:
        pause = outbox.pause
        del outbox
        if end.wait(pause) or (outbox := ref()) is None or not outbox.goes_on():
            return
