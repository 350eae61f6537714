"""A call as a statement of SQL with its parameters, and the rows that came back as its answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, TypeVar

from ..core.call import Call, Json
from ..core.values import loads
from .arrays import ARRAYS
from .observe import Meter, size_of

T = TypeVar("T")

# One statement says who the transaction is; `role` last, for the login may not set the others any more after it.
BECOME: Final = """select set_config('request.jwt.claims', %s, true),
  set_config('idle_in_transaction_session_timeout', '15s', true), set_config('role', 'authenticated', true)"""


def statement(call: Call[Any], schema: str, replay: bool, meter: Meter | None) -> tuple[bytes, dict[str, Any]]:
    """The statement of a call, and its parameters."""
    args = call.arguments(replay=replay)
    if meter is not None:
        meter.sent += size_of(args.values())
    types = call.function.types
    typed = tuple((name, types.get(name, "text")) for name in args)
    query = _query(schema, call.function.name, call.parse_rows is not None, typed)
    return query, {name: _value(kind, args[name]) for name, kind in typed}


@cache
def _query(schema: str, function: str, rows: bool, typed: tuple[tuple[str, str], ...]) -> bytes:
    """`select schema.function(name => value, ...)`, or the rows of its twin where they are faster to read.

    Every name in it is one of ours, and the schema's was checked to be a plain identifier.
    """
    named = ", ".join(f"{name} => {_placeholder(name, kind)}" for name, kind in typed)
    form = "select type, data from {}_rows({})" if rows else "select {}({})"
    return form.format(f'"{schema}".{function}', named).encode()


def _placeholder(name: str, kind: str) -> str:
    return f"%({name})b" if kind in ARRAYS else f"%({name})s::{kind}"


def _value(kind: str, value: Any) -> Any:
    if isinstance(value, list):
        return ARRAYS[kind].of(value)
    return value.text.decode() if isinstance(value, Json) else value


def answer(call: Call[T], rows: Sequence[tuple[Any, ...]], meter: Meter | None) -> T:
    """The answer that the rows are. Their json values are text still."""
    if meter is not None:
        meter.received += size_of(rows)
    if call.parse_rows is not None:
        return call.parse_rows(rows)
    text = rows[0][0]
    return call.parse(None if text is None else loads(text))
