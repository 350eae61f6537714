"""What the checks of the doctor share: what is looked at, and what they have learnt so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.call import Call, Function
from ..errors import HistoryError, Transient, Unavailable

if TYPE_CHECKING:
    from ..store import HistoryStore


class NoFurther(Exception):
    """Raised by a check after which there is nothing left to look at."""


@dataclass
class Visit:
    """What is looked at, and what the checks so far have learnt."""

    environ: Mapping[str, str]
    given: dict[str, str]
    options: dict[str, Any]
    store: HistoryStore | None = None
    ledger: dict[str, str] | HistoryError | None = None  # by version; or why the database did not tell
    guards: dict[str, Any] | None = None

    @property
    def driver(self) -> Any:
        assert self.store is not None
        return self.store.driver

    @property
    def over_psycopg(self) -> bool:
        return bool(self.driver.transport == "psycopg")

    @property
    def api_key(self) -> str:
        return str(self.driver.api_key)

    @property
    def has_user(self) -> bool:
        """Whether requests carry a user: the store's, or who is signed in on the application's own client."""
        assert self.store is not None
        return self.store.scope.identity is not None or bool(self.driver.signed_in())

    @property
    def speaks_for_itself(self) -> bool:
        """Whether calls run as the login of a connection string, and not as one of Supabase's roles."""
        assert self.store is not None
        return self.over_psycopg and self.store.scope.identity is None

    def ask(self, function: str) -> Any:
        """Call a function once, without the retries that would wait out the deadline."""
        assert self.store is not None
        try:
            return self.driver.attempt(
                Call(Function(function), {}, lambda reply: reply), self.store.scope.identity, False, self.deadline
            )
        except Transient as error:
            raise Unavailable(f"The database could not be reached: {error}.", code=error.code) from error.__cause__

    @property
    def deadline(self) -> float:
        return float(self.driver.deadline)

    @property
    def schema(self) -> str:
        return str(self.driver.schema)
