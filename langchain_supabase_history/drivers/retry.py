"""A deadline with retries: how long one try may take, and when there is another."""

from __future__ import annotations

import time
from typing import Any, Final

import tenacity

from ..errors import Transient, Unavailable

# A try may use so much of the time that is left, so that one dead connection does not use up the deadline; the last
# second is for one try.
SHARE: Final = 0.5
_LAST_TRY: Final = 1.0
_SHORTEST: Final = 0.05  # a try that ends before it has learnt anything would hide why those before it failed


def policy(end: float) -> dict[str, Any]:
    """The arguments of tenacity: to try again what is transient, with growing pauses, until a monotonic time."""
    return {
        "retry": tenacity.retry_if_exception_type(Transient),
        "stop": tenacity.stop_before_delay(max(end - time.monotonic() - _SHORTEST, 0)),
        "wait": tenacity.wait_random_exponential(multiplier=0.05, max=1),
        "reraise": True,
    }


def seconds_of_try(end: float) -> float:
    """What a further try may take."""
    left = max(end - time.monotonic(), 0.001)
    return left * SHARE if left > _LAST_TRY else left


def unavailable(error: Transient, deadline: float) -> Unavailable:
    """The error of an operation whose last try failed so."""
    text = f"The database could not be reached within {deadline:g} s: {error}."
    return Unavailable(text, code=error.code, advice=error.advice)
