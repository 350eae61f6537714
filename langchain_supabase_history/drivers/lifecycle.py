"""What happens to drivers at a fork and at the interpreter's end."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol


class Closable(Protocol):
    """What is seen to: a driver."""

    def reset(self) -> None:
        """Forget every connection, without closing it."""

    def close(self) -> None:
        """Give every connection back."""


_drivers: Final[weakref.WeakSet[Closable]] = weakref.WeakSet()
_inherited: Final[list[dict[str, Any]]] = []  # kept alive in a child: nothing of the parent's is closed by its end

is_ending: Callable[[], bool] = sys.is_finalizing
"""Whether the interpreter is being torn down: threads are gone, so nothing may be waited for any more."""


def register(driver: Closable) -> None:
    """See to a driver at a fork and at the interpreter's end."""
    _drivers.add(driver)


def _forget_inherited() -> None:
    for driver in list(_drivers):
        _inherited.append(dict(vars(driver)))
        driver.reset()


@atexit.register
def _close_all() -> None:
    """Leave no pool's tasks or threads behind at the interpreter's end."""
    for driver in list(_drivers):
        with suppress(Exception):  # one that cannot be closed must not keep the others open
            driver.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
