"""What an operation is made of: calls of SQL functions, and plans that put calls together.

An operation is written once, as a generator that yields its steps and returns its result. `run` and `arun` of
`operations/base.py` carry it out, one waiting for each step, the other awaiting it::

    def delete_session(scope: Scope, session_id: str) -> Plan[bool]:
        call = delete_call(scope, session_id)
        more = True
        while more:
            deleted, more = yield call
        return deleted
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Function:
    """A function of ours in the database.

    Attributes:
        name: Its name.
        types: The SQL types of its arguments that are not text, by name.
    """

    name: str
    types: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Json:
    """An argument that is JSON text already, to be sent as it is."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One call of one SQL function: one round trip and one transaction.

    Attributes:
        function: The function.
        args: Its named arguments; those that are None are left out.
        parse: Reads the answer, a parsed json value.
        parse_rows: Reads the rows of `<function>_rows`, which a driver that speaks SQL asks for instead, being faster.
        replay_args: Added to the arguments from the second try on.
    """

    function: Function
    args: dict[str, Any]
    parse: Callable[[Any], R]
    parse_rows: Callable[[Sequence[tuple[Any, ...]]], R] | None = None
    replay_args: dict[str, Any] = field(default_factory=dict)

    def arguments(self, *, replay: bool = False) -> dict[str, Any]:
        """The arguments to send; with `replay`, for a second try."""
        args = {**self.args, **self.replay_args} if replay else self.args
        return {name: value for name, value in args.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Blocking(Generic[R]):
    """A step that is no call: a function that may wait (for LangSmith, say). Async code runs it in a worker thread."""

    function: Callable[[], R]


Step: TypeAlias = Call[Any] | Blocking[Any]
Plan: TypeAlias = Generator[Step, Any, R]
