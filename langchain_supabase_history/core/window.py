"""Windows: how much of a conversation the model is shown."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidSession


@dataclass(frozen=True, slots=True)
class Window:
    """How much of a conversation the model is shown: the latest of it, within every limit that is set.

    A window begins with a human message. Where there is none in it (a long tool loop), the question of that turn stands
    in front, and the newest call with its results behind it.

    Attributes:
        messages: At most so many messages; more only where a question with the newest answer, or with the newest call
            and its results, is more.
        turns: At most so many turns.
        tokens: At most so many tokens, the system message's included; never exceeded.
        keep_system: Whether a system message that the session begins with stays in front, beyond `messages` and
            `turns`.

    Raises:
        InvalidSession: A limit is not a positive whole number.
    """

    messages: int | None = None
    turns: int | None = None
    tokens: int | None = None
    keep_system: bool = True

    def __post_init__(self) -> None:
        for name in ("messages", "turns", "tokens"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value < 2**31):
                raise InvalidSession(f"Window({name}=...) must be a whole number from 1 to 2147483647, or None.")
        if type(self.keep_system) is not bool:
            raise InvalidSession("Window(keep_system=...) must be True or False.")
