"""One builder for each SQL function: what to call, with which arguments, and how to read the answer.

Pure: nothing here talks to a database. Bad arguments are refused here, before anything is sent.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, get_args

import orjson
from langchain_core.messages import BaseMessage
from langchain_core.utils.uuid import uuid7

from . import messages as codec, values
from .errors import InvalidInput, InvalidMessage, InvalidSession
from .records import Loaded, Page, Session, Status, StoredMessage, Turn, Window

R = TypeVar("R")

MAX_ID_LENGTH: Final = 1000
MAX_PAGE: Final = 1000
ERASE_BATCH: Final = 5000  # messages and turns that one call deletes: well within a try's seconds
_LONG: Final = 1e9  # seconds; 30 years

# The arguments that are not text, by name: the type a driver that speaks SQL casts them to.
SQL_TYPES: Final[dict[str, str]] = {
    "ids": "uuid[]",
    "types": "text[]",
    "data": "json[]",
    "tokens": "integer[]",
    "turn": "json",
    "feedback": "json",
    "costs": "json",
    "since": "timestamptz",
    "until": "timestamptz",
    "group_by": "text[]",
    "after_turn": "uuid",
    "epoch": "integer",
    "older_than": "double precision",
    "after": "bigint",
    "after_position": "bigint",
    "known_revision": "bigint",
    "max_items": "integer",
    "max_messages": "integer",
    "max_turns": "integer",
    "max_tokens": "bigint",
    "newest_first": "boolean",
    "keep_system": "boolean",
    "replace": "boolean",
    "replay": "boolean",
    "request": "uuid",
    "idle_for": "interval",
    "keep_messages": "integer",
    "dry_run": "boolean",
    "batch": "integer",
    "after_session": "uuid",
}


@dataclass(frozen=True, slots=True)
class Json:
    """An argument that is JSON text already, to be sent as it is."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One call of one SQL function.

    Attributes:
        function: Its name.
        args: Its named arguments; those that are None are left out.
        parse: Reads the answer, a parsed json value.
        parse_rows: Reads the rows of `<function>_rows`, which a driver that speaks SQL asks for instead, being faster.
        replay_args: Added to the arguments from the second try on.
    """

    function: str
    args: dict[str, Any]
    parse: Callable[[Any], R]
    parse_rows: Callable[[Sequence[tuple[Any, ...]]], R] | None = None
    replay_args: dict[str, Any] = field(default_factory=dict)

    def arguments(self, *, replay: bool = False) -> dict[str, Any]:
        """The arguments to send; with `replay`, for a second try."""
        args = {**self.args, **self.replay_args} if replay else self.args
        return {name: value for name, value in args.items() if value is not None}


# --- arguments ------------------------------------------------------------------------------------------------------


def check_id(value: object, name: str = "session_id") -> str:
    """A session or user id as it may be stored: text of 1 to 1000 characters, without NUL or lone surrogates."""
    if not isinstance(value, str):
        raise InvalidSession(f"{name} must be a str, got {type(value).__name__}: pass str({name}).")
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise InvalidSession(f"{name} must have 1 to {MAX_ID_LENGTH} characters, got {len(value)}.")
    if not values.is_plain(value):
        raise InvalidSession(f"{name} must not contain NUL or lone surrogates.")
    return value


def check_messages(value: Sequence[BaseMessage]) -> list[BaseMessage]:
    """A list of what may be messages; each is looked at when it is encoded."""
    if isinstance(value, (str, bytes, BaseMessage)) or not isinstance(value, Sequence):
        raise InvalidMessage(f"messages must be a list of messages, got {type(value).__name__}.")
    return list(value)


def _uuid(value: object, name: str) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    try:
        return uuid.UUID(value if isinstance(value, str) else "")
    except ValueError:
        raise InvalidMessage(f"{name} must be UUIDs.") from None


def _whole(value: object, name: str, low: int, high: int = 2**63 - 1) -> int:
    if type(value) is not int or not low <= value <= high:
        raise InvalidSession(f"{name} must be a whole number from {low} to {high}.")
    return value


def check_number(value: object, name: str, low: float = float("-inf")) -> float:
    """A number that a column of numbers can hold: finite, and not less than `low`."""
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value < low:
        raise InvalidInput(f"{name} must be a finite number" + (f" from {low:g} on." if low > -math.inf else "."))
    return float(value)


def _cursor(value: object) -> int | None:
    if value is None:
        return None
    if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18):
        raise InvalidSession("cursor must be the next_cursor of a page of this listing.")
    return int(value)


def message_ids(count: int, idempotency_key: str | None = None) -> list[uuid.UUID]:
    """Row ids for so many messages: new ones, or, with an application's idempotency key, always the same ones."""
    if idempotency_key is None:
        return [uuid.UUID(int=uuid7().int) for _ in range(count)]
    check_id(idempotency_key, "idempotency_key")
    namespace = uuid.uuid5(uuid.NAMESPACE_OID, "langchain_supabase_history")
    return [uuid.uuid5(namespace, f"{idempotency_key}\x00{n}") for n in range(count)]


_TURN_TEXTS: Final = ("trace_id", "run_id", "project", "model", "error")
_TURN_COUNTS: Final = ("input_tokens", "output_tokens", "total_tokens")
_TURN_JSON: Final = ("token_details", "documents", "metadata")


def turn_json(turn: Turn, **more: Any) -> Json:
    """A turn as the database takes it, with `more` in it.

    Raises:
        InvalidMessage: A field cannot be stored.
    """
    if not isinstance(turn, Turn):
        raise InvalidMessage(f"turn must be a Turn, got {type(turn).__name__}.")
    if turn.status not in get_args(Status):
        raise InvalidMessage(f"turn.status must be one of {', '.join(get_args(Status))}.")
    sent: dict[str, Any] = {"id": str(_uuid(turn.id, "turn.id")), "status": turn.status}
    for name in _TURN_TEXTS:
        if (text := getattr(turn, name)) is not None:
            if not isinstance(text, str):
                raise InvalidMessage(f"turn.{name} must be a str.")
            # A column of text holds neither NUL nor lone surrogates; what the eye sees is kept.
            sent[name] = values.made_plain(text)
    for name in ("started_at", "ended_at"):
        if (at := getattr(turn, name)) is not None:
            if not isinstance(at, datetime) or at.tzinfo is None:
                raise InvalidMessage(f"turn.{name} must be a datetime with a time zone.")
            sent[name] = at.isoformat()
    for name in _TURN_COUNTS:
        if (count := getattr(turn, name)) is not None:
            sent[name] = _whole(count, f"turn.{name}", 0)
    if turn.total_cost is not None:
        sent["total_cost"] = check_number(turn.total_cost, "turn.total_cost", 0)
    for name in _TURN_JSON:
        if value := getattr(turn, name):
            try:
                sent[name] = values.to_json(value, f"turn.{name}")
            except values.Unencodable as error:
                raise InvalidMessage(f"{error.path[:200]} cannot be stored: {error.reason}.") from None
    return Json(orjson.dumps(sent | more))


# --- answers --------------------------------------------------------------------------------------------------------


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _known(cls: type[Any], row: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in row.items() if name in names}


def _session(row: dict[str, Any] | None) -> Session | None:
    if row is None:
        return None
    row = {**row, "created_at": _time(row["created_at"]), "updated_at": _time(row["updated_at"]),
           "metadata": values.decode(row["metadata"] or {})}  # fmt: skip
    return Session(**_known(Session, row))


def _turn(row: dict[str, Any]) -> Turn:
    times = {name: _time(row[name]) for name in ("started_at", "ended_at", "created_at")}
    jsons = {name: values.decode(row[name]) for name in _TURN_JSON}
    question = [codec.decode_or_wrap(part["type"], part["data"]) for part in row["question"] or ()]
    known = {**times, **jsons, "id": uuid.UUID(row["id"]), "metadata": jsons["metadata"] or {}, "question": question}
    if row["total_cost"] is not None:
        known["total_cost"] = float(row["total_cost"])
    return Turn(**_known(Turn, row | known))


def _stored_message(row: dict[str, Any], message: BaseMessage | None = None) -> StoredMessage:
    return StoredMessage(
        uuid.UUID(row["id"]), row["position"], datetime.fromisoformat(row["created_at"]), uuid.UUID(row["turn_id"]),
        message if message is not None else codec.decode_or_wrap(row["type"], row["data"]),
    )  # fmt: skip


def _page(item: Callable[[dict[str, Any]], R]) -> Callable[[Any], Page[R]]:
    def parse(reply: Any) -> Page[R]:
        following = reply["next"]
        return Page([item(row) for row in reply["items"]], None if following is None else str(following))

    return parse


def _loaded(header: dict[str, Any], found: list[BaseMessage], unreadable: int) -> Loaded:
    front = found[: bool(header["system"])]
    rest = found[len(front) :]
    fallback = rest[: bool(header["fallback"])]
    kept = codec.without_unanswered_calls(rest[len(fallback) :])
    if not kept and fallback:
        kept, front = fallback, [] if header["fallback_alone"] else front
    return Loaded(front + kept, header["epoch"], header["revision"], header["last_position"], unreadable)


def _parse_load(reply: Any) -> Loaded:
    return _loaded(reply["header"], *codec.decode_items(reply["messages"]))


def _parse_load_rows(rows: Sequence[tuple[Any, ...]]) -> Loaded:
    return _loaded(values.loads(rows[0][1]), *codec.decode_rows(rows[1:]))


# --- the calls ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Built(Generic[R]):
    """A call made of messages. `amiss` tells what of them could not be stored as it was given."""

    call: Call[R]
    amiss: list[str]


def append(
    session_id: str,
    messages: Sequence[BaseMessage],
    *,
    user_id: str | None = None,
    ids: Sequence[uuid.UUID | str] | None = None,
    idempotency_key: str | None = None,
    turn: Turn | None = None,
    epoch: int | None = None,
    known_epoch: int | None = None,
    replace: bool | None = None,
    asked: bool = False,
    max_message_bytes: int = codec.MAX_MESSAGE_BYTES,
    count_tokens: Callable[[BaseMessage], int] | None = None,
) -> Built[list[StoredMessage]]:
    """`chat_history_append`: see `HistoryStore.append`. `known_epoch` is the session's when its turn began.

    With `replace`, the messages take the place of all that there are. With `asked`, the turn was begun and its question
    waits on it.
    """
    messages = check_messages(messages)
    minted = ids is None and idempotency_key is None
    if ids is not None and idempotency_key is not None:
        raise InvalidMessage("Give ids or idempotency_key, not both.")
    if ids is None:
        ids = message_ids(len(messages), idempotency_key)
    elif isinstance(ids, str) or not isinstance(ids, Sequence) or len(ids) != len(messages):
        raise InvalidMessage("ids must have one UUID for each message.")
    named = "output" if asked else "messages"
    encoded = [
        codec.encode_message(message, f"{named}[{n}]", max_message_bytes, count_tokens)
        for n, message in enumerate(messages)
    ]
    if epoch is not None:
        _whole(epoch, "epoch", 0, 2**31 - 1)

    row_ids = [_uuid(i, "ids") for i in ids]

    def parse(reply: Any) -> list[StoredMessage]:
        # The new ones are the last of all: a question that waited on its turn has come in front of them.
        known = {row["id"]: row for row in reply["known"]}
        position = reply["last_position"] - len(row_ids) + len(known)
        at = datetime.fromisoformat(reply["created_at"])
        turn_id = uuid.UUID(reply["turn_id"]) if reply["turn_id"] else uuid.UUID(int=0)
        stored = []
        for id, message in zip(row_ids, messages, strict=True):
            if known and (row := known.get(str(id))):
                stored.append(_stored_message(row, message))
            else:
                position += 1
                stored.append(StoredMessage(id, position, at, turn_id, message))
        return stored

    call = Call(
        "chat_history_append",
        {
            "session_id": check_id(session_id),
            "ids": row_ids,
            "types": [message.type for message in encoded],
            "data": [Json(message.data) for message in encoded],
            "tokens": [message.tokens for message in encoded],
            "turn": None if turn is None else turn_json(turn, **({"asked": True} if asked else {})),
            "user_id": user_id,
            "epoch": known_epoch if epoch is None else epoch,
            "replace": replace,
            "replay": True if epoch is not None else False if minted else None,
        },
        parse,
        replay_args={"replay": True},
    )
    return Built(call, [what for message in encoded for what in message.amiss])


def load(
    session_id: str,
    *,
    user_id: str | None = None,
    window: Window | None = None,
    after_position: int | None = None,
    known_revision: int | None = None,
) -> Call[Loaded]:
    """`chat_history_load`: see `HistoryStore.load`."""
    if window is not None and not isinstance(window, Window):
        raise InvalidSession(f"window must be a Window, got {type(window).__name__}.")
    args: dict[str, Any] = {
        "session_id": check_id(session_id), "user_id": user_id,
        "after_position": after_position, "known_revision": known_revision,
    }  # fmt: skip
    if window is not None:
        args |= {"max_messages": window.messages, "max_turns": window.turns, "max_tokens": window.tokens,
                 "keep_system": window.keep_system}  # fmt: skip
    return Call("chat_history_load", args, _parse_load, _parse_load_rows)


def begin(
    session_id: str,
    question: Sequence[BaseMessage],
    turn: Turn,
    *,
    user_id: str | None = None,
    window: Window | None = None,
    max_message_bytes: int = codec.MAX_MESSAGE_BYTES,
    count_tokens: Callable[[BaseMessage], int] | None = None,
) -> Built[Loaded]:
    """`chat_history_begin`: load a session, and leave the question with the turn until its answer is appended."""
    encoded = [codec.encode_message(m, f"input[{n}]", max_message_bytes, count_tokens) for n, m in enumerate(question)]
    waiting = [
        {"id": str(id), "type": message.type, "data": orjson.Fragment(message.data), "tokens": message.tokens}
        for id, message in zip(message_ids(len(encoded)), encoded, strict=True)
    ]
    loading = load(session_id, user_id=user_id, window=window)
    args = {name: value for name, value in loading.args.items() if name not in ("after_position", "known_revision")}
    args["turn"] = turn_json(turn, question=waiting)
    call = Call("chat_history_begin", args, _parse_load, _parse_load_rows)
    return Built(call, [what for message in encoded for what in message.amiss])


def _listing(
    session_id: str, user_id: str | None, limit: int, cursor: str | None, newest_first: bool
) -> dict[str, Any]:
    if type(newest_first) is not bool:
        raise InvalidSession("newest_first must be True or False.")
    return {
        "session_id": check_id(session_id), "user_id": user_id, "after": _cursor(cursor),
        "max_items": _whole(limit, "limit", 1, MAX_PAGE), "newest_first": newest_first,
    }  # fmt: skip


def list_messages(
    session_id: str,
    *,
    user_id: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
    newest_first: bool = False,
) -> Call[Page[StoredMessage]]:
    """`chat_history_list_messages`: see `HistoryStore.messages`."""
    args = _listing(session_id, user_id, limit, cursor, newest_first)
    return Call("chat_history_list_messages", args, _page(_stored_message))


def list_turns(
    session_id: str,
    *,
    user_id: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
    newest_first: bool = False,
) -> Call[Page[Turn]]:
    """`chat_history_list_turns`: see `HistoryStore.turns`."""
    args = _listing(session_id, user_id, limit, cursor, newest_first)
    return Call("chat_history_list_turns", args, _page(_turn))


def get_session(session_id: str, *, user_id: str | None = None) -> Call[Session | None]:
    """`chat_history_get_session`: see `HistoryStore.session`."""
    return Call("chat_history_get_session", {"session_id": check_id(session_id), "user_id": user_id}, _session)


def clear(session_id: str, *, user_id: str | None = None) -> Call[int]:
    """`chat_history_clear`: see `HistoryStore.clear`. A retry is the same request, and hides nothing more."""
    args = {"session_id": check_id(session_id), "user_id": user_id, "request": str(uuid.uuid4())}
    return Call("chat_history_clear", args, lambda reply: int(reply["cleared"]))


def delete_session(session_id: str, *, user_id: str | None = None) -> Call[tuple[bool, bool]]:
    """`chat_history_delete_session`: whether there was one, and whether to execute the call again for what is left."""
    args = {"session_id": check_id(session_id), "user_id": user_id, "request": str(uuid.uuid4()), "batch": ERASE_BATCH}
    return Call("chat_history_delete_session", args, lambda reply: (bool(reply["deleted"]), bool(reply["more"])))


def interrupt_turns(session_id: str, older_than: float, *, user_id: str | None = None) -> Call[int]:
    """`chat_history_interrupt_turns`: see `HistoryStore.interrupt_turns`."""
    args = {
        "session_id": check_id(session_id),
        "older_than": min(check_number(older_than, "older_than", 0), _LONG),
        "user_id": user_id,
    }
    return Call("chat_history_interrupt_turns", args, lambda reply: int(reply["interrupted"]))


__all__ = [
    "Built", "Call", "InvalidInput", "Json", "append", "clear", "delete_session", "get_session", "list_messages",
    "list_turns", "load", "message_ids",
]  # fmt: skip
