"""What waits: the file, and what is known of the sessions in it."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.messages import BaseMessage

from ..core.identity import Identity
from ..core.settings import as_path
from ..errors import HistoryError, OutboxFailed, StoreClosed
from .file import Waiting, listed, open_file
from .operation import Blocked, Key, Sent

if TYPE_CHECKING:
    from pathlib import Path

    from ..drivers.base import Driver

FIRST_PAUSE: Final = 1.0  # seconds until the background tries again, doubled up to the longest


class Queue:
    """The appends of one store that wait for the database, in a SQLite file that one process owns.

    Args:
        path: The file, made at need.
        driver: Sends them.
        report: Called with messages that will never be stored, and why.

    Raises:
        NotConfigured: Another process owns the file, or it is damaged, or it cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        driver: Driver[Any],
        report: Callable[[HistoryError, list[BaseMessage]], None],
    ) -> None:
        self.path: Path = as_path(path, "outbox")
        self.driver = driver
        self.report = report
        self.pid: int = os.getpid()
        self.lock: threading.Lock = threading.Lock()  # of all below; never held while something is sent or reported
        self.db: sqlite3.Connection | None = None
        self.end: threading.Event = threading.Event()
        self.thread: threading.Thread | None = None
        self.patience: float = driver.deadline + 1  # seconds in which a try has come to its end
        self.pause: float = FIRST_PAUSE
        self.sessions: set[Key] = set()  # every session with something waiting, and maybe some with nothing any more
        self.deliveries: dict[Key, Future[Sent]] = {}
        self.blocked: dict[Key, Blocked] = {}
        self.epochs: dict[Key, int] = {}  # as last seen, the oldest first
        # Of each user with something waiting, once a request of theirs has come.
        self.identities: dict[str, Identity | None] = {}
        self.open()
        _queues.add(self)

    def open(self) -> bool:
        """Open the file, where it is not open; whether it was opened now and something waits in it.

        Raises:
            NotConfigured: Another process owns it, or it is damaged, or it cannot be written.
            OutboxFailed: This is a forked child of the process that it belongs to.
        """
        if self.pid != os.getpid():  # before any lock: a thread that a forked child does not have may hold it
            raise OutboxFailed(
                f"The outbox {self.path} belongs to the process that opened it, not to its child.",
                advice="Make the store after the fork, with a file of its own.",
            )
        if self.db is not None:
            return False
        with self.lock:
            if self.db is not None:
                return False
            self.db = db = open_file(self.path)
            self.end = threading.Event()
            query = "select distinct owner, session_id, subject from waiting where refused is null"
            rows = db.execute(query).fetchall()
            self.sessions = {(owner, session) for owner, session, _ in rows}
            self.identities = {subject: self.identities.get(subject) for _, _, subject in rows if subject}
            return bool(rows)

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """The file, locked. What began before `close` does not open it again."""
        with self.lock:
            if self.db is None:
                raise StoreClosed("The store was closed while this operation ran.")
            try:
                yield self.db
            except sqlite3.Error as error:
                raise OutboxFailed(f"The outbox {self.path} could not be used: {error}.") from error

    def head(self, db: sqlite3.Connection, key: Key) -> tuple[int, str] | None:
        """The id and the subject of what is to be sent next of a session; without any, it is forgotten."""
        query = "select id, subject from waiting where owner = ? and session_id = ? and refused is null order by id"
        if (head := db.execute(f"{query} limit 1", key).fetchone()) is not None:
            return cast("tuple[int, str]", head)
        self.sessions.discard(key)
        self.blocked.pop(key, None)
        query = "select 1 from waiting where owner = ? and refused is null limit 1"
        if key[0] in self.identities and db.execute(query, key[:1]).fetchone() is None:
            del self.identities[key[0]]
        return None

    def waiting(self) -> list[Waiting]:
        """What is in the outbox, in the order in which it came; what was refused for good is there too."""
        self.open()
        with self.connection() as db:
            return listed(db)


_queues: weakref.WeakSet[Queue] = weakref.WeakSet()


def _leave_to_parent() -> None:
    # A child that ends closes what it inherited, and SQLite then removes the log that its parent still writes to. One
    # reference too many keeps it from that.
    for queue in list(_queues):
        if queue.db is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(queue.db))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
