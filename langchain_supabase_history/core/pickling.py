"""What holds connections is made where it is used: it can be copied within a process, and not be pickled."""

from __future__ import annotations

from typing import NoReturn, Self, SupportsIndex


class MadeInWorker:
    """A base of classes whose objects hold connections, locks and perhaps a password.

    Pickling them raises a TypeError, as it does for Python's own files, sockets and locks.
    """

    __slots__ = ()

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        name = type(self).__name__
        raise TypeError(
            f"A {name} cannot be pickled: it holds connections, and their settings the password. "
            "Make it in the worker: call HistoryStore.from_env() (or another constructor) there, once a process."
        )
