"""The outbox's file: a SQLite database that one process owns, and what is in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
from langchain_core.messages import BaseMessage

from ..core.call import Json
from ..core.messages import decode_or_wrap
from ..core.values import loads
from ..errors import NotConfigured

_SCHEMA: Final = (
    """
create table if not exists waiting (
  id integer primary key autoincrement,
  owner text not null,        -- whose session; '' for the application's own
  session_id text not null,
  subject text not null,      -- the user whose token the call needs; '' for the store's own
  messages integer not null,
  kept_at text not null,
  refused text,               -- why the database will never take it; null while it waits
  arguments blob not null     -- JSON
)""",
    "create index if not exists waiting_of_session on waiting (owner, session_id) where refused is null",
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An append in the outbox.

    Attributes:
        user_id: Whose session it is, or None.
        refused: Why the database will never take it, or None while it waits.
    """

    id: int
    session_id: str
    user_id: str | None
    messages: int
    kept_at: datetime
    refused: str | None


def open_file(path: Path) -> sqlite3.Connection:
    """The file, made at need, and owned by this process from now on.

    Raises:
        NotConfigured: Another process owns it, or it is damaged, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        db.execute("pragma locking_mode = exclusive")
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")  # fsync before an append counts as kept
        db.execute("pragma secure_delete = on")
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
                f"Another process uses the outbox {path}. Give each process a file of its own."
            ) from error
        raise NotConfigured(f"The outbox {path} cannot be opened: {error}.") from error
    except (sqlite3.DatabaseError, OSError) as error:
        raise NotConfigured(
            f"The outbox {path} is damaged or cannot be written: {error}. Move the file away; it is a SQLite database, "
            "and what can still be read of it is in its table `waiting`."
        ) from error


def look_into(path: str | os.PathLike[str]) -> list[Waiting]:
    """What is in an outbox that no process uses.

    Raises:
        NotConfigured: A process uses it, or it is no outbox.
    """
    try:
        with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True, timeout=0)) as db:
            return listed(db)
    except sqlite3.Error as error:
        raise NotConfigured(f"The outbox {path} is in use by a process, or is none: {error}.") from error


def listed(db: sqlite3.Connection) -> list[Waiting]:
    """All that is in the file, in the order in which it came."""
    query = "select id, session_id, nullif(owner, ''), messages, kept_at, refused from waiting order by id"
    return [Waiting(i, s, u, n, datetime.fromisoformat(at), why) for i, s, u, n, at, why in db.execute(query)]


def messages_of(arguments: Mapping[str, Any]) -> list[BaseMessage]:
    """The messages of an append's arguments."""
    parts = zip(arguments["types"], arguments["data"], strict=True)
    return [decode_or_wrap(type, loads(data.text)) for type, data in parts]


def packed(arguments: Mapping[str, Any]) -> bytes:
    """The arguments of a call as JSON."""
    return orjson.dumps(arguments, default=_pack, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def unpacked(text: bytes) -> dict[str, Any]:
    """The arguments again, to the letter."""
    return {name: _unpack(value) for name, value in orjson.loads(text).items()}


def _pack(value: Any) -> Any:
    if isinstance(value, Json):
        return {"$json": value.text.decode()}  # as it was, to the letter
    raise TypeError


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    return Json(value["$json"].encode()) if isinstance(value, dict) else value
