"""Values as JSON. What JSON cannot hold is written as an object with the key `$type`, and comes back as it was:

======================  ==========================================================================
`str`                   text with NUL or lone surrogates: `\\` doubled, those as `\\uXXXX`
`float`                 `"nan"`, `"inf"`, `"-inf"`
`int`                   decimal digits, where it does not fit 64 bits
`bytes`, `bytearray`    base64
`datetime` `date`       ISO 8601; `time` too
`timedelta`             `[days, seconds, microseconds]`
`decimal`, `uuid`       as text
`set` `frozenset`       a list; `tuple` too
`enum`                  its value, with `class` and `name`; comes back as its value where the class is not imported
`dict`                  `[[key, value], ...]`, where keys are not all plain strings, or one of them is `$type`
======================  ==========================================================================

Pydantic models (a retriever's `Document`, say) and dataclasses are written as their dictionaries, and stay that; a set
of them comes back as a list. An object with a `$type` that is not written as here stays as it is.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import json
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import orjson
from pydantic import BaseModel

R = TypeVar("R")

TAG: Final = "$type"
_MAX_DEPTH: Final = 80  # a level may take three of JSON, of which the encoder takes 254


class Unencodable(Exception):
    """A value that cannot be written as JSON.

    Attributes:
        path: Where it is.
        reason: Why.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path: str = path
        self.reason: str = reason


def cache_by_class(function: Callable[[type], R]) -> Callable[[type], R]:
    """Cache what a function says of a class for as long as the class lives: a class made at run time is not kept."""
    cache: WeakKeyDictionary[type, R] = WeakKeyDictionary()

    @wraps(function)
    def cached(cls: type) -> R:
        try:
            return cache[cls]
        except KeyError:
            result = cache[cls] = function(cls)
            return result

    return cached


_NOT_TEXT: Final = re.compile("[\x00\ud800-\udfff]")
_ESCAPED: Final = re.compile("[\\\\\x00\ud800-\udfff]")
_UNESCAPE: Final = re.compile(r"\\(\\|u[0-9a-f]{4})")


def _tagged(tag: str, value: Any, **more: Any) -> dict[str, Any]:
    return {TAG: tag, "value": value, **more}


def is_plain(text: str) -> bool:
    """Whether text is without NUL and lone surrogates, which neither JSON nor a column of text can hold."""
    return (text.isascii() and "\x00" not in text) or not _NOT_TEXT.search(text)


def made_plain(text: str) -> str:
    """Text with a replacement character for each NUL and lone surrogate: what the eye sees is kept."""
    return text if is_plain(text) else _NOT_TEXT.sub("\ufffd", text)


def _encode_str(text: str) -> Any:
    if is_plain(text):
        return text
    return _tagged("str", _ESCAPED.sub(lambda m: "\\\\" if m[0] == "\\" else f"\\u{ord(m[0]):04x}", text))


def _encode_int(value: int) -> Any:
    return value if -(2**63) <= value < 2**64 else _tagged("int", str(value))


def _encode_float(value: float) -> Any:
    if value - value == 0:  # finite
        return float(value)  # numpy's are floats too, but not to the encoder
    return _tagged("float", "nan" if value != value else "inf" if value > 0 else "-inf")


def _encode_dict(value: Mapping[Any, Any], path: str, depth: int) -> Any:
    encoded: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str or key == TAG or not is_plain(key):
            break
        scalar = _SCALARS.get(type(item))  # these cannot fail, so nobody need know where they are
        encoded[key] = encode(item, f"{path}.{key}", depth) if scalar is None else scalar(item)
    else:
        return encoded
    pairs = [[_encode_key(k, path, depth), encode(v, f"{path}[{k!r:.40}]", depth)] for k, v in value.items()]
    return _tagged("dict", pairs)


def _encode_key(key: Any, path: str, depth: int) -> Any:
    encoded = encode(key, f"{path} key", depth)
    if type(encoded) is dict and TAG not in encoded:
        raise Unencodable(f"{path} key", f"{type(key).__qualname__} comes back as a dictionary, which is no key")
    return encoded


def _encode_set(value: Iterable[Any], path: str, depth: int) -> list[Any]:
    # In an order of their own: that of a set changes from process to process, and a retry must be the same.
    return sorted(_encode_list(value, path, depth), key=orjson.dumps)


def _encode_list(value: Iterable[Any], path: str, depth: int) -> list[Any]:
    return [encode(v, f"{path}[{i}]", depth) for i, v in enumerate(value)]


def _encode_enum(value: enum.Enum, path: str, depth: int) -> Any:
    cls = type(value)
    where = {"class": f"{cls.__module__}:{cls.__qualname__}", "name": value.name}
    return _tagged("enum", encode(value.value, path, depth), **where)


def _as_it_is(value: Any) -> Any:
    return value


_SCALARS: dict[type, Callable[[Any], Any]] = {
    str: _encode_str,
    int: _encode_int,
    float: _encode_float,
    bool: _as_it_is,
    type(None): _as_it_is,
}
_ENCODERS: dict[type, Callable[[Any, str, int], Any]] = {
    dict: _encode_dict,
    list: _encode_list,
    tuple: lambda v, p, d: _tagged("tuple", _encode_list(v, p, d)),
    set: lambda v, p, d: _tagged("set", _encode_set(v, p, d)),
    frozenset: lambda v, p, d: _tagged("frozenset", _encode_set(v, p, d)),
    bytes: lambda v, p, d: _tagged("bytes", base64.b64encode(v).decode()),
    bytearray: lambda v, p, d: _tagged("bytearray", base64.b64encode(v).decode()),
    dt.datetime: lambda v, p, d: _tagged("datetime", v.isoformat()),
    dt.date: lambda v, p, d: _tagged("date", v.isoformat()),
    dt.time: lambda v, p, d: _tagged("time", v.isoformat()),
    dt.timedelta: lambda v, p, d: _tagged("timedelta", [v.days, v.seconds, v.microseconds]),
    decimal.Decimal: lambda v, p, d: _tagged("decimal", str(v)),
    uuid.UUID: lambda v, p, d: _tagged("uuid", str(v)),
}


@cache_by_class
def _encoder_for(cls: type) -> Callable[[Any, str, int], Any] | None:
    """For a class that is not in the table: what its base is encoded as."""
    if issubclass(cls, enum.Enum):
        return _encode_enum
    if issubclass(cls, BaseModel):
        return lambda v, p, d: encode(v.model_dump(), p, d)
    if dataclasses.is_dataclass(cls):
        return lambda v, p, d: encode({f.name: getattr(v, f.name) for f in dataclasses.fields(v)}, p, d)
    if issubclass(cls, Mapping):
        return _encode_dict
    for base in cls.__mro__:
        if (scalar := _SCALARS.get(base)) is not None:
            return lambda v, p, d: scalar(v)
        if base in _ENCODERS:
            return _ENCODERS[base]
    return None


def encode(value: Any, path: str = "", depth: int = 0) -> Any:
    """A value as JSON can hold it; `path` names it in an error."""
    if (scalar := _SCALARS.get(type(value))) is not None:
        return scalar(value)
    encoder = _ENCODERS.get(type(value)) or _encoder_for(value.__class__)
    if encoder is None:
        raise Unencodable(path, f"{type(value).__module__}.{type(value).__qualname__} cannot be stored")
    if depth > _MAX_DEPTH:
        raise Unencodable(path, f"it is nested more than {_MAX_DEPTH} levels deep, or contains itself")
    return encoder(value, path, depth + 1)


def to_json(value: Any, path: str) -> orjson.Fragment:
    """A value as JSON text, to be put into what is sent.

    Raises:
        Unencodable: It cannot be, whatever its own code raised.
    """
    try:
        return orjson.Fragment(orjson.dumps(encode(value, path)))
    except Unencodable:
        raise
    except Exception as error:  # a property, __iter__ or model_dump of the value's own
        raise Unencodable(path, type(error).__name__) from error


def _hashed(make: Callable[[Any], Any], items: list[Any]) -> Any:
    try:
        return make(items)
    except TypeError:  # of models, which come back as dictionaries
        return items


def _decode_enum(tagged: dict[str, Any]) -> Any:
    module, _, name = str(tagged.get("class", "")).partition(":")
    found: Any = sys.modules.get(module)  # never imported for a row's sake
    for part in name.split("."):
        found = getattr(found, part, None)
    value = decode(tagged["value"])
    if isinstance(found, type) and issubclass(found, enum.Enum):
        return found.__members__.get(str(tagged.get("name")), value)
    return value


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "str": lambda v: _UNESCAPE.sub(lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)), v),
    "int": int,
    "float": float,
    "bytes": lambda v: base64.b64decode(v),
    "bytearray": lambda v: bytearray(base64.b64decode(v)),
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "timedelta": lambda v: dt.timedelta(*v),
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "tuple": lambda v: tuple(decode(v)),
    "set": lambda v: _hashed(set, decode(v)),
    "frozenset": lambda v: _hashed(frozenset, decode(v)),
    "dict": lambda v: {decode(key): decode(item) for key, item in v},
}


def decode(value: Any) -> Any:
    """The inverse of `encode`. An object with a `$type` that is not ours stays as it is."""
    if type(value) is dict:
        tag = value.get(TAG)
        if tag is not None and "value" in value:
            if tag == "enum":
                return _decode_enum(value)
            decoder = _DECODERS.get(tag) if type(tag) is str else None
            if decoder is not None:
                try:
                    return decoder(value["value"])
                except (ArithmeticError, AttributeError, TypeError, ValueError):  # not as it is written here
                    return value
        return {k: decode(v) if type(v) in (dict, list) else v for k, v in value.items()}
    if type(value) is list:
        return [decode(v) if type(v) in (dict, list) else v for v in value]
    return value


def loads(text: str | bytes) -> Any:
    """A JSON value, as whoever wrote it; orjson reads it faster, but refuses lone surrogates and huge numbers.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text)
