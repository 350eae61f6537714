"""Arguments, checked before anything is sent."""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar, get_args

import orjson
from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.utils.uuid import uuid7

from ..errors import InvalidInput, InvalidMessage, InvalidSession
from ..records import Status, StoredMessage, Turn
from . import values
from .call import Json

MessageLike: TypeAlias = BaseMessage | tuple[str, Any] | Mapping[str, Any]
C = TypeVar("C", bound=Callable[..., Any] | None)

MAX_ID_LENGTH: Final = 1000
MAX_USER_ID_BYTES: Final = 2500  # what an index of the database holds
MAX_PAGE: Final = 1000
MAX_TAGS: Final = 100
MAX_TAG_LENGTH: Final = 200
LONGEST_SECONDS: Final = 1e9  # 30 years


def check_id(value: object, name: str = "session_id") -> str:
    """A session or user id as it may be stored: text of 1 to 1000 characters, without NUL or lone surrogates; that of a
    user at most 2500 bytes of UTF-8."""
    if not isinstance(value, str):
        raise InvalidSession(f"{name} must be a str, got {type(value).__name__}: pass str({name}).")
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise InvalidSession(f"{name} must have 1 to {MAX_ID_LENGTH} characters, got {len(value)}.")
    if not values.is_plain(value):
        raise InvalidSession(f"{name} must not contain NUL or lone surrogates.")
    if name.endswith("user_id") and len(value.encode()) > MAX_USER_ID_BYTES:
        raise InvalidSession(f"{name} must have at most {MAX_USER_ID_BYTES} bytes of UTF-8: use a shorter id.")
    return value


def check_optional_id(value: object, name: str) -> str | None:
    """An id as `check_id` takes it, or None."""
    return None if value is None else check_id(value, name)


def check_messages(value: MessageLike | Sequence[MessageLike]) -> list[BaseMessage]:
    """The messages of an append, in the forms that LangChain's chat models take; each is checked when it is encoded.

    Raises:
        InvalidMessage: It is neither a message nor a list of them, or a pair or dictionary is no message.
    """
    return [_as_message(message, f"messages[{n}]") for n, message in enumerate(as_list(value))]


def as_list(value: Any) -> list[Any]:
    """A list of what may be messages, or one.

    Raises:
        InvalidMessage: It is neither.
    """
    if isinstance(value, (BaseMessage, Mapping)):
        return [value]
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InvalidMessage(f"messages must be a message or a list of them, got {type(value).__name__}.")
    return list(value)


def _as_message(value: MessageLike, where: str) -> BaseMessage:
    """A message of a (role, content) pair, or of a dictionary with `role` and `content`; whatever else as it is."""
    like: Any = value
    if isinstance(value, Mapping):
        like = dict(value)
    elif not (isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], str)):
        return like  # type: ignore[no-any-return]  # whatever it is, it is checked when it is encoded
    try:
        (message,) = convert_to_messages([like])
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise InvalidMessage(
            f"{where} is no message.",
            advice='A dictionary needs "role" and "content", a pair is (role, content); roles are user, assistant, '
            "system, tool.",
        ) from error
    return message


def check_text(value: object, name: str, longest: int) -> str:
    """Text that a column of text can hold."""
    if not isinstance(value, str) or not 1 <= len(value) <= longest or not values.is_plain(value):
        raise InvalidInput(f"{name} must be a str of 1 to {longest} characters, without NUL or lone surrogates.")
    return value


def check_uuid(value: object, name: str) -> uuid.UUID:
    """A UUID, or the text of one."""
    if isinstance(value, uuid.UUID):
        return value
    try:
        return uuid.UUID(value if isinstance(value, str) else "")
    except ValueError:
        raise InvalidMessage(f"{name} must be UUIDs.") from None


def check_whole(value: object, name: str, low: int, high: int = 2**63 - 1) -> int:
    """A whole number within limits."""
    if type(value) is not int or not low <= value <= high:
        raise InvalidSession(f"{name} must be a whole number from {low} to {high}.")
    return value


def check_number(value: object, name: str, low: float = float("-inf")) -> float:
    """A number that a column of numbers can hold: finite, and not less than `low`."""
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value < low:
        raise InvalidInput(f"{name} must be a finite number" + (f" from {low:g} on." if low > -math.inf else "."))
    return float(value)


def check_flag(value: object, name: str) -> bool:
    """True or False, and nothing that merely counts as such."""
    if type(value) is not bool:
        raise InvalidSession(f"{name} must be True or False.")
    return value


def check_callable(value: C, name: str) -> C:
    """Something to call, or None."""
    if value is not None and not callable(value):
        raise InvalidInput(f"{name} must be callable.")
    return value


def check_time(value: object, name: str) -> str | None:
    """A time with its zone in ISO 8601, or None."""
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidInput(f"{name} must be a datetime with a time zone.")
    return value.isoformat()


def check_cursor(value: object) -> int | None:
    """The position that a page's `next_cursor` stands for, or None."""
    if value is None:
        return None
    if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18):
        raise InvalidSession("cursor must be the next_cursor of a page of this listing.")
    return int(value)


def check_keyset(value: object, order: str, numbers: Sequence[str] = ()) -> Json | None:
    """The place in a listing by `order` that a page's `next_cursor` stands for, or None.

    Args:
        value: The cursor.
        order: The order of the listing.
        numbers: What a place consists of besides a time or text (`at`) and a session's key.
    """
    if value is None:
        return None
    try:
        found_order, place = orjson.loads(base64.urlsafe_b64decode(value if isinstance(value, str) else ""))
        at = place["at"]
        if found_order != order or not isinstance(at, str) or not values.is_plain(at):
            raise ValueError
        if order != "title":
            datetime.fromisoformat(at)
        for name in numbers:
            check_number(place[name], name)
        return Json(orjson.dumps({**place, "key": str(uuid.UUID(place["key"]))}))
    except (AttributeError, KeyError, TypeError, ValueError):  # not ours, whatever it is
        raise InvalidSession("cursor must be the next_cursor of a page of this listing, in the same order.") from None


def keyset_cursor(order: str, place: dict[str, Any]) -> str:
    """The `next_cursor` for a place in a listing, which `check_keyset` takes."""
    return base64.urlsafe_b64encode(orjson.dumps([order, place])).decode()


def check_place(value: object, name: str) -> tuple[int | None, str | None]:
    """A message of a conversation: by its position, or by the row id of a `StoredMessage`."""
    if isinstance(value, StoredMessage):
        return None, str(check_uuid(value.id, f"{name}.id"))
    if type(value) is not int or not 1 <= value < 2**63:
        raise InvalidInput(f"{name} must be a StoredMessage or a position from 1 on.")
    return value, None


def check_metadata(value: object) -> Any:
    """A dictionary with plain keys, encoded as it is stored.

    Raises:
        InvalidInput: It is no such dictionary, or something in it cannot be stored.
    """
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and key != values.TAG and values.is_plain(key) for key in value
    ):
        raise InvalidInput(f"metadata must be a dict with keys of text, none of them {values.TAG}.")
    try:
        return values.to_json(value, "metadata")
    except values.Unencodable as error:
        raise InvalidInput(f"{error.path[:200]} cannot be stored: {error.reason}.") from None


def check_tags(value: object) -> list[str]:
    """A list of tags."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > MAX_TAGS:
        raise InvalidInput(f"tags must be a list of at most {MAX_TAGS} str.")
    return [check_text(tag, "a tag", MAX_TAG_LENGTH) for tag in value]


def message_ids(count: int) -> list[uuid.UUID]:
    """New row ids for so many messages."""
    return [uuid.UUID(int=uuid7().int) for _ in range(count)]


def message_ids_of_key(count: int, idempotency_key: str) -> list[uuid.UUID]:
    """Row ids for so many messages of an application's idempotency key: always the same ones."""
    check_id(idempotency_key, "idempotency_key")
    namespace = uuid.uuid5(uuid.NAMESPACE_OID, "langchain_supabase_history")
    return [uuid.uuid5(namespace, f"{idempotency_key}\x00{n}") for n in range(count)]


_TURN_TEXTS: Final = ("trace_id", "run_id", "project", "model", "error")
_TURN_TIMES: Final = ("started_at", "ended_at")
_TURN_COUNTS: Final = ("input_tokens", "output_tokens", "total_tokens")
TURN_JSON: Final = ("token_details", "documents", "metadata")


def turn_json(turn: Turn, **more: Any) -> Json:
    """A turn as the database takes it, with `more` in it.

    Raises:
        InvalidMessage: A field cannot be stored.
    """
    if not isinstance(turn, Turn):
        raise InvalidMessage(f"turn must be a Turn, got {type(turn).__name__}.")
    if turn.status not in get_args(Status):
        raise InvalidMessage(f"turn.status must be one of {', '.join(get_args(Status))}.")
    fields: dict[str, Any] = {"id": str(check_uuid(turn.id, "turn.id")), "status": turn.status}
    for name in _TURN_TEXTS:
        if (text := getattr(turn, name)) is not None:
            if not isinstance(text, str):
                raise InvalidMessage(f"turn.{name} must be a str.")
            # A column of text holds neither NUL nor lone surrogates; what the eye sees is kept.
            fields[name] = values.made_plain(text)
    for name in _TURN_TIMES:
        if (at := getattr(turn, name)) is not None:
            if not isinstance(at, datetime) or at.tzinfo is None:
                raise InvalidMessage(f"turn.{name} must be a datetime with a time zone.")
            fields[name] = at.isoformat()
    for name in _TURN_COUNTS:
        if (count := getattr(turn, name)) is not None:
            fields[name] = check_whole(count, f"turn.{name}", 0)
    if turn.total_cost is not None:
        fields["total_cost"] = check_number(turn.total_cost, "turn.total_cost", 0)
    for name in TURN_JSON:
        if value := getattr(turn, name):
            try:
                fields[name] = values.to_json(value, f"turn.{name}")
            except values.Unencodable as error:
                raise InvalidMessage(f"{error.path[:200]} cannot be stored: {error.reason}.") from None
    return Json(orjson.dumps(fields | more))
