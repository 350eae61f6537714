"""Calls through the application's own psycopg pools, and within a transaction of its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, TypeVar

import psycopg
import psycopg_pool
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.string import TextLoader

from ..core.call import Call
from ..core.identity import Identity
from ..errors import InvalidInput, NotConfigured, Transient, Unavailable
from .arrays import register_dumpers
from .base import Driver, Transport
from .observe import Meter, observe
from .psycopg_errors import translate
from .statements import BECOME, answer, statement
from .verifier import Verifier

T = TypeVar("T")
Conn = psycopg.Connection[Any]
AsyncConn = psycopg.AsyncConnection[Any]

# The application's connections know nothing of our deadline: the server ends the statement.
_LIMIT: Final = "select set_config('statement_timeout', %s, true)"
_OF_PSYCOPG: Final = frozenset(("autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"))


class PoolDriver(Driver[None]):
    """Calls through the application's own pools, which it does not close.

    Whatever the pools' connections are set up for (autocommit or not, row factories, prepared statements), a call is
    one transaction of its own.

    Args:
        pool: A `psycopg_pool.ConnectionPool`, or None.
        async_pool: An `AsyncConnectionPool`, or None. Without it, async operations run in a worker thread.
        verifier: Checks access tokens for `as_user`.
    """

    transport: Transport = "psycopg"

    def __init__(self, pool: Any, async_pool: Any, *, verifier: Verifier, schema: str, deadline: float) -> None:
        _check_pool(pool, psycopg_pool.ConnectionPool, "pool")
        _check_pool(async_pool, psycopg_pool.AsyncConnectionPool, "async_pool")
        if pool is None and async_pool is None:
            raise NotConfigured("from_pool needs a psycopg_pool.ConnectionPool.")
        super().__init__(schema=schema, deadline=deadline, pool_size=(pool or async_pool).max_size)
        self._own: psycopg_pool.ConnectionPool[Conn] | None = pool
        self._aown: psycopg_pool.AsyncConnectionPool[AsyncConn] | None = async_pool
        self._verifier = verifier

    def __repr__(self) -> str:
        return f"PoolDriver(schema={self.schema!r})"

    @property
    def address(self) -> str:
        """The connection string that the pool's settings make: a secret; '' where they are a function's."""
        pool: Any = self._own or self._aown
        if not isinstance(pool.conninfo, str) or callable(pool.kwargs):
            return ""
        return make_conninfo(pool.conninfo, **{k: v for k, v in (pool.kwargs or {}).items() if k not in _OF_PSYCOPG})

    def attempt(
        self, call: Call[T], identity: Identity | None, replay: bool, seconds: float, meter: Meter | None = None
    ) -> T:
        if self._own is None:
            raise NotConfigured(
                "This store has an async pool only.",
                advice="Use the async methods (aload, aappend, ...), or give from_pool(pool, async_pool) both.",
            )
        claims = None if identity is None else self._verifier.claims(identity)
        query, params = statement(call, self.schema, replay, meter)
        end = time.monotonic() + seconds
        conn: Conn | None = None
        try:
            conn = self._own.getconn(timeout=seconds)
            try:
                return answer(call, _in_own_transaction(conn, query, params, claims, end), meter)
            finally:
                self._own.putconn(conn)
        except psycopg.Error as error:
            if conn is not None and conn.closed:
                self._own.check()  # its siblings are suspect too
            raise self._translate(error, conn is None, end) from error

    async def _aexecute(self, call: Call[T], identity: Identity | None, meter: Meter | None) -> T:
        if self._aown is None:
            return await asyncio.to_thread(self._tries, call, identity, meter)
        return await self._atries(call, identity, None, meter)  # on the caller's loop, which is the pool's

    async def aattempt(
        self,
        call: Call[T],
        identity: Identity | None,
        replay: bool,
        seconds: float,
        residents: None,
        meter: Meter | None = None,
    ) -> T:
        assert self._aown is not None
        claims = None if identity is None else await asyncio.to_thread(self._verifier.claims, identity)
        query, params = statement(call, self.schema, replay, meter)
        end = time.monotonic() + seconds
        conn: AsyncConn | None = None
        try:
            conn = await self._aown.getconn(timeout=seconds)
            try:
                return answer(call, await _ain_own_transaction(conn, query, params, claims, end), meter)
            finally:
                await asyncio.shield(self._aown.putconn(conn))
        except psycopg.Error as error:
            if conn is not None and conn.closed:
                await self._aown.check()
            raise self._translate(error, conn is None, end) from error

    @staticmethod
    def _translate(error: psycopg.Error, connecting: bool, end: float) -> Exception:
        if isinstance(error, psycopg_pool.PoolClosed):
            return NotConfigured(
                "The application's pool is not open.",
                advice="Open it before the store is used: pool.open(), or `with pool:`.",
            )
        late = time.monotonic() >= end
        if late and isinstance(error, psycopg.errors.QueryCanceled):
            return Transient("it did not answer in time")
        return translate(error, connecting=connecting, late=late)

    def pool_stats(self) -> dict[str, dict[str, int]]:
        pools = {"sync": self._own, "async": self._aown}
        return {kind: pool.get_stats() for kind, pool in pools.items() if pool is not None}

    def is_open(self) -> bool:
        return False  # nothing here is the driver's to close

    def close(self) -> None:
        """Nothing here is the driver's to close."""


class Joined:
    """Executes calls within the transaction that a connection of the application's is in: no try but one, no commit.

    Args:
        conn: The application's psycopg connection.
        driver: Whose schema and `on_operation` hold.

    Raises:
        InvalidInput: It is no psycopg connection.
    """

    def __init__(self, conn: Any, driver: Driver[Any]) -> None:
        if not isinstance(conn, (psycopg.Connection, psycopg.AsyncConnection)):
            raise InvalidInput(
                f"in_transaction takes psycopg's Connection or AsyncConnection, got {type(conn).__name__}.",
                advice="SQLAlchemy's has it as conn.connection.driver_connection.",
            )
        self._conn: Any = conn
        self._driver = driver

    def execute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Execute a call in the transaction, once."""
        if isinstance(self._conn, psycopg.AsyncConnection):
            raise InvalidInput("This transaction is an AsyncConnection's: use the async methods (aappend, aload, ...).")
        self._check(identity)
        with observe(call.function.name, self._driver.on_operation) as meter:
            query, params = self._statement(call, meter)
            try:
                return answer(call, _cursor(self._conn).execute(query, params, prepare=False).fetchall(), meter)
            except psycopg.Error as error:
                raise _final(translate(error, connecting=False)) from error

    async def aexecute(self, call: Call[T], identity: Identity | None = None) -> T:
        """Async version of `execute`."""
        if isinstance(self._conn, psycopg.Connection):
            return await asyncio.to_thread(self.execute, call, identity)
        self._check(identity)
        with observe(call.function.name, self._driver.on_operation) as meter:
            query, params = self._statement(call, meter)
            cursor = _acursor(self._conn)
            try:
                await cursor.execute(query, params, prepare=False)
                return answer(call, await cursor.fetchall(), meter)
            except psycopg.Error as error:
                raise _final(translate(error, connecting=False)) from error

    def _statement(self, call: Call[Any], meter: Meter | None) -> tuple[bytes, dict[str, Any]]:
        if meter is not None:
            meter.tries += 1
        return statement(call, self._driver.schema, False, meter)

    def _check(self, identity: Identity | None) -> None:
        if identity is not None:
            raise InvalidInput(
                "as_user cannot join a transaction: the rest of it would run as that user too.",
                advice="Set role and claims in the transaction yourself, or name the user by for_user.",
            )
        status = self._conn.pgconn.transaction_status
        if status == TransactionStatus.INERROR:
            raise InvalidInput("The transaction has failed already.", advice="Roll it back, and begin again.")
        if status == TransactionStatus.IDLE and self._conn.autocommit:
            raise InvalidInput(
                "The connection is in autocommit mode and in no transaction.",
                advice="Begin one: with conn.transaction(): ...",
            )


def _final(error: Exception) -> Exception:
    """An error that may pass: only the application can try again, because its transaction has ended."""
    if not isinstance(error, Transient):
        return error
    advice = "Roll the transaction back and run the whole of it again."
    return Unavailable(f"The application's transaction failed: {error}.", code=error.code, advice=advice)


def _check_pool(pool: object, kind: type[Any], name: str) -> None:
    if pool is not None and not isinstance(pool, kind):
        raise NotConfigured(
            f"from_pool takes a psycopg_pool.{kind.__name__} as {name}, got {type(pool).__name__}.",
            advice="from_pool(pool, async_pool); either may be None.",
        )


def _cursor(conn: Conn) -> psycopg.Cursor[tuple[Any, ...]]:
    """A plain cursor, whatever the connection makes, with our own reading and writing of types."""
    cursor = psycopg.Cursor(conn, row_factory=tuple_row)
    cursor.adapters.register_loader("json", TextLoader)
    register_dumpers(cursor.adapters)
    return cursor


def _acursor(conn: AsyncConn) -> psycopg.AsyncCursor[tuple[Any, ...]]:
    cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
    cursor.adapters.register_loader("json", TextLoader)
    register_dumpers(cursor.adapters)
    return cursor


def _settings(claims: str | None, end: float) -> list[tuple[str, list[str]]]:
    limit = f"{max(int((end - time.monotonic()) * 1000), 1)}ms"
    return [(_LIMIT, [limit])] if claims is None else [(_LIMIT, [limit]), (BECOME, [claims])]


def _in_own_transaction(
    conn: Conn, query: bytes, params: dict[str, Any], claims: str | None, end: float
) -> list[tuple[Any, ...]]:
    try:
        cursor = _cursor(conn)
        with conn.pipeline():  # all of it goes out together and is waited for once
            if conn.autocommit:
                _cursor(conn).execute("begin", prepare=False)
            for setting, values in _settings(claims, end):
                _cursor(conn).execute(setting, values, prepare=False)
            cursor.execute(query, params, prepare=False)
            _cursor(conn).execute("commit", prepare=False)
        return cursor.fetchall()
    except psycopg.Error:
        if not conn.closed:
            conn.rollback()
        raise


async def _ain_own_transaction(
    conn: AsyncConn, query: bytes, params: dict[str, Any], claims: str | None, end: float
) -> list[tuple[Any, ...]]:
    try:
        cursor = _acursor(conn)
        async with conn.pipeline():
            if conn.autocommit:
                await _acursor(conn).execute("begin", prepare=False)
            for setting, values in _settings(claims, end):
                await _acursor(conn).execute(setting, values, prepare=False)
            await cursor.execute(query, params, prepare=False)
            await _acursor(conn).execute("commit", prepare=False)
        return await cursor.fetchall()
    except psycopg.Error:
        if not conn.closed:
            await conn.rollback()
        raise
