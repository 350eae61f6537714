"""An outbox: appends that could not be sent wait in a file until the database is back.

On a disk that is lost at restart, as on Streamlit Cloud, it bridges outages, not restarts.

What waits is the call as it would have been sent, row ids and epoch included: sent late or twice, it is stored once,
and what was cleared or deleted meanwhile stays so. The content lies in the file as plain text until it is sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import orjson
from langchain_core.messages import BaseMessage

from .calls import Call, Json
from .connecting import as_path
from .errors import Conflict, Forbidden, HistoryError, NotConfigured, OutboxFailed, Unavailable
from .identity import Identity, token_subject
from .messages import decode_or_wrap, loads
from .records import Loaded

if TYPE_CHECKING:
    from .drivers.base import Driver

logger = logging.getLogger(__name__)
T = TypeVar("T")

_SCHEMA: Final = (
    """
create table if not exists waiting (
  id integer primary key autoincrement,
  subject text not null,      -- the user whose token the call needs; '' for the store's own
  user_id text not null,
  session_id text not null,
  arguments blob not null,    -- JSON
  messages integer not null,
  kept_at text not null,
  refused text                -- why the database will never take it; null while it waits
)""",
    "create index if not exists waiting_of_session on waiting (subject, user_id, session_id)",
)
_FIRST_PAUSE: Final = 1.0  # seconds until the background tries again, doubled up to the longest
_LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """An append in the outbox.

    Attributes:
        refused: Why the database will never take it, or None while it waits.
    """

    id: int
    session_id: str
    user_id: str | None
    messages: int
    kept_at: datetime
    refused: str | None


@dataclass(frozen=True, slots=True)
class _Entry:
    id: int
    subject: str
    user_id: str
    session_id: str
    arguments: bytes


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
        self, path: str | os.PathLike[str], driver: Driver, tell: Callable[[HistoryError, list[BaseMessage]], None]
    ) -> None:
        self.path = as_path(path, "outbox")
        self._driver = driver
        self._tell = tell
        self._lock = threading.RLock()  # of the connection
        self._sending = threading.RLock()  # one sender at a time keeps a session's order
        self._identities: dict[str, Identity] = {}
        self._epochs: dict[tuple[str, str, str], int] = {}
        self._end = threading.Event()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        if self._any():
            self._start()

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            db.execute("pragma locking_mode = exclusive")
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")  # fsync before an append counts as kept
            db.execute("begin immediate")
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute("commit")
            if (found := db.execute("pragma quick_check(1)").fetchone()) != ("ok",):
                raise sqlite3.DatabaseError(str(found))
            return db
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise NotConfigured(
                    f"Another process uses the outbox {self.path}. Give each process a file of its own."
                ) from error
            raise NotConfigured(f"The outbox {self.path} cannot be opened: {error}.") from error
        except (sqlite3.DatabaseError, OSError) as error:
            raise NotConfigured(
                f"The outbox {self.path} is damaged or cannot be written: {error}. Move the file away; it is a SQLite "
                "database, and what can still be read of it is in its table `waiting`."
            ) from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._pid != os.getpid():  # a forked child: the file is its parent's
                raise OutboxFailed(f"The outbox {self.path} belongs to the process that opened it, not to its child.")
            if self._db is None:
                self._db = self._open()
            try:
                yield self._db
            except sqlite3.Error as error:
                raise OutboxFailed(f"The outbox {self.path} could not be used: {error}.") from error

    # --- what waits

    def _any(self, key: tuple[str, str, str] | None = None) -> bool:
        of_session = "" if key is None else " and subject = ? and user_id = ? and session_id = ?"
        with self._connection() as db:
            query = f"select 1 from waiting where refused is null{of_session} limit 1"  # noqa: S608
            return db.execute(query, key or ()).fetchone() is not None

    def waiting(self) -> list[Waiting]:
        """What is in the outbox, in the order in which it came; what was refused for good is there too."""
        with self._connection() as db:
            return _waiting(db)

    # --- the store's calls pass through here

    def execute(self, call: Call[T], identity: Identity | None) -> T:
        """Execute a call, after what waits of its session. An append that cannot be sent is kept, and answers []."""
        try:
            if self._must_send_before(call, identity):
                self.send(_key(call, identity), identity)
            reply = self._driver.execute(call, identity)
        except Unavailable:
            if not _is_append(call):
                raise
            self.keep(call, identity)
            return _nothing(call)
        return self._noted(call, identity, reply)

    async def aexecute(self, call: Call[T], identity: Identity | None) -> T:
        """Async version of execute."""
        try:
            if self._must_send_before(call, identity):
                await asyncio.to_thread(self.send, _key(call, identity), identity)
            reply = await self._driver.aexecute(call, identity)
        except Unavailable:
            if not _is_append(call):
                raise
            await asyncio.to_thread(self.keep, call, identity)
            return _nothing(call)
        return self._noted(call, identity, reply)

    def _must_send_before(self, call: Call[Any], identity: Identity | None) -> bool:
        return "session_id" in call.args and self._pid == os.getpid() and self._any(_key(call, identity))

    def _noted(self, call: Call[Any], identity: Identity | None, reply: T) -> T:
        """Remember a session's epoch as this process saw it last: what waits of the session carries it."""
        if isinstance(reply, Loaded):
            if len(self._epochs) > 10_000:
                self._epochs.clear()
            self._epochs[_key(call, identity)] = reply.epoch
        elif call.function in ("chat_history_clear", "chat_history_delete_session"):
            self._epochs.pop(_key(call, identity), None)
        return reply

    def keep(self, call: Call[Any], identity: Identity | None) -> None:
        """Keep an append.

        Raises:
            OutboxFailed: The file could not be written (a full disk, say).
        """
        key = _key(call, identity)
        arguments = call.arguments(replay=True)
        if who := key[0] or self._driver.signed_in():
            arguments.setdefault("user_id", who)  # sent later, it must not become another's who is signed in then
        if key in self._epochs:
            arguments.setdefault("epoch", self._epochs[key])
        text = orjson.dumps(arguments, default=_pack, option=orjson.OPT_PASSTHROUGH_DATACLASS)
        with self._connection() as db:
            db.execute(
                "insert into waiting (subject, user_id, session_id, arguments, messages, kept_at)"
                " values (?, ?, ?, ?, ?, ?)",
                (*key, text, len(arguments["ids"]), datetime.now(UTC).isoformat()),
            )
        if identity is not None:
            self._identities[key[0]] = identity
        logger.warning("the database is away: %d messages of a session wait in the outbox", len(arguments["ids"]))
        self._start()

    # --- sending

    def send(self, key: tuple[str, str, str] | None = None, identity: Identity | None = None) -> int:
        """Send what waits, of one session or all, in order, and tell how many appends were sent.

        A session whose append cannot be sent now keeps the rest of it waiting; other sessions go on.

        Raises:
            HistoryError: The first error of an append that still waits.
        """
        sent, failed, stuck = 0, None, set[tuple[str, str, str]]()
        with self._sending:
            if identity is not None:
                self._identities[subject_of(identity)] = identity
            for entry in self._entries(key):
                of_session = (entry.subject, entry.user_id, entry.session_id)
                if of_session in stuck or (entry.subject and entry.subject not in self._identities):
                    continue  # its turn comes after the one that is stuck; or when its user is there again
                try:
                    self._send(entry)
                    sent += 1
                except (Unavailable, Forbidden) as error:  # a token may be expired: a fresh one may mend it
                    stuck.add(of_session)
                    failed = failed or error
                    if isinstance(error, Unavailable):
                        break
        if failed is not None:
            raise failed
        return sent

    def _entries(self, key: tuple[str, str, str] | None) -> list[_Entry]:
        of_session = "" if key is None else " and subject = ? and user_id = ? and session_id = ?"
        query = "select id, subject, user_id, session_id, arguments from waiting where refused is null"
        with self._connection() as db:
            return [_Entry(*row) for row in db.execute(f"{query}{of_session} order by id", key or ())]

    def _send(self, entry: _Entry) -> None:
        arguments = orjson.loads(entry.arguments)
        arguments = {name: _unpack(value) for name, value in arguments.items()}
        call: Call[Any] = Call("chat_history_append", arguments, lambda reply: reply)
        try:
            self._driver.execute(call, self._identities.get(entry.subject))
        except (Unavailable, Forbidden):
            raise
        except Conflict as error:  # cleared or deleted meanwhile: not to come back, nor to stay in this file
            self._strike(entry)
            self._tell(error, _messages(arguments))
        except HistoryError as error:  # the database will never take it: kept, for a person to look at
            with self._connection() as db:
                db.execute("update waiting set refused = ? where id = ?", (str(error), entry.id))
            self._tell(error, _messages(arguments))
        else:
            self._strike(entry)

    def _strike(self, entry: _Entry) -> None:
        with self._connection() as db:
            db.execute("delete from waiting where id = ?", (entry.id,))

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._end.clear()
                self._thread = threading.Thread(target=self._background, name="outbox", daemon=True)
                self._thread.start()

    def _background(self) -> None:
        pause = _FIRST_PAUSE
        while not self._end.wait(pause):
            try:
                self.send()
                pause = _FIRST_PAUSE
            except HistoryError:
                pause = min(pause * 2, _LONGEST_PAUSE)
            with self._lock:
                if self._end.is_set() or not self._any():
                    break
        with self._lock:
            if self._thread is threading.current_thread():
                self._thread = None

    def close(self) -> None:
        """End the background and give the file back; used again, it opens again. What waits stays in it."""
        if self._pid != os.getpid():
            return
        self._end.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._lock:
            db, self._db = self._db, None
            if db is not None:
                db.close()


def look_into(path: str | os.PathLike[str]) -> list[Waiting]:
    """What is in an outbox that no process uses.

    Raises:
        NotConfigured: A process uses it, or it is no outbox.
    """
    try:
        with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True, timeout=0)) as db:
            return _waiting(db)
    except sqlite3.Error as error:
        raise NotConfigured(f"The outbox {path} is in use by a process, or is none: {error}.") from error


def _waiting(db: sqlite3.Connection) -> list[Waiting]:
    query = "select id, session_id, nullif(user_id, ''), messages, kept_at, refused from waiting order by id"
    return [Waiting(i, s, u, n, datetime.fromisoformat(at), why) for i, s, u, n, at, why in db.execute(query)]


def subject_of(identity: Identity | None) -> str:
    """The user of a token or claims, as they say themselves; '' without."""
    if identity is None:
        return ""
    if identity.claims is not None:
        return str(identity.claims["sub"])
    subject = token_subject(identity.access_token())
    if subject is None:
        raise Forbidden("The access token names no user.")
    return subject


def _is_append(call: Call[Any]) -> bool:
    return call.function == "chat_history_append"


def _nothing(call: Call[T]) -> T:
    return cast("T", [])


def _messages(arguments: dict[str, Any]) -> list[BaseMessage]:
    parts = zip(arguments["types"], arguments["data"], strict=True)
    return [decode_or_wrap(type, loads(data.text)) for type, data in parts]


def _key(call: Call[Any], identity: Identity | None) -> tuple[str, str, str]:
    return subject_of(identity), call.args.get("user_id") or "", call.args["session_id"]


def _pack(value: Any) -> Any:
    if isinstance(value, Json):
        return {"$json": value.text.decode()}  # as it was, to the letter
    raise TypeError


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    return Json(value["$json"].encode()) if isinstance(value, dict) else value
