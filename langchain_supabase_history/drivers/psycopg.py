"""Calls over psycopg: a direct connection, the session pooler or the transaction pooler."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final, TypeVar

import psycopg
import psycopg_pool
from psycopg.pq import TransactionStatus
from psycopg.types.string import TextLoader

from ..core.call import Call
from ..core.identity import Identity
from ..errors import Transient, Unavailable
from .base import Driver, Transport
from .conninfo import read, with_defaults
from .loop import OwnLoop
from .observe import Meter
from .psycopg_errors import CANNOT_CONNECT, translate
from .statements import BECOME, answer, statement
from .verifier import Verifier

T = TypeVar("T")

_CANCEL_SECONDS: Final = 1.0


class _Care:
    """A connection that gives up at the deadline of the operation that uses it, and knows when it was opened."""

    deadline: float | None = None
    opened_at: float = 0.0

    def is_busy(self) -> bool:
        """Whether a statement still runs: closed alone, it would wait on for its locks and write when nobody asks."""
        return bool(self.pgconn.transaction_status == TransactionStatus.ACTIVE)  # type: ignore[attr-defined]

    def seconds_left(self) -> float | None:
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.001)


class _Connection(_Care, psycopg.Connection[Any]):
    first: ClassVar[_Connection | None] = None

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> _Connection:
        conn, cls.first = (
            cls.first,
            None,
        )  # the pool's first is the one that was opened first, to see the server's own error
        if conn is None:
            conn = super().connect(*args, **kwargs)
            conn.adapters.register_loader("json", TextLoader)  # the parsers read it faster than psycopg would
            conn.opened_at = time.monotonic()
        return conn

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, self.seconds_left() if timeout is None else timeout)


class _AsyncConnection(_Care, psycopg.AsyncConnection[Any]):
    first: ClassVar[_AsyncConnection | None] = None
    opened: ClassVar[weakref.WeakSet[_AsyncConnection]]

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> _AsyncConnection:
        conn, cls.first = cls.first, None
        if conn is None:
            conn = await super().connect(*args, **kwargs)
            cls.opened.add(conn)
            conn.adapters.register_loader("json", TextLoader)
            conn.opened_at = time.monotonic()
        return conn

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return await super().wait(gen, interval, self.seconds_left() if timeout is None else timeout)


class _AsyncPool:
    """What lives on the driver's loop: the pool, once it is open, and the lock that opens it once."""

    def __init__(self) -> None:
        self.pool: psycopg_pool.AsyncConnectionPool[_AsyncConnection] | None = None
        self.opening: asyncio.Lock = asyncio.Lock()
        self.opened: weakref.WeakSet[_AsyncConnection] = weakref.WeakSet()
        self.closing: set[asyncio.Future[None]] = set()  # pools that were given up

    async def close(self) -> None:
        """Close the pool."""
        pool, self.pool = self.pool, None
        if pool is not None:
            await _aclose(pool)

    async def close_all(self) -> None:
        """Close whatever is open still, when nobody uses it any more: what cancelled operations have left."""
        self.pool = None  # one that was opened meanwhile: its workers were cancelled, so that it cannot close itself
        for conn in list(self.opened):
            await conn.close()

    def give_up(self, pool: psycopg_pool.AsyncConnectionPool[_AsyncConnection]) -> None:
        """Leave a pool that cannot connect: a new one tries at once, where this would try ever more rarely."""
        self.pool = None if self.pool is pool else self.pool
        closing = asyncio.ensure_future(_aclose(pool, 1))
        self.closing.add(closing)
        closing.add_done_callback(self.closing.discard)


class PsycopgDriver(Driver[_AsyncPool]):
    """Calls our SQL functions through a pool of psycopg connections.

    Args:
        conninfo: A connection string or URL, as `conninfo.read` takes it. TLS is required for a host that is not
            local, unless it says otherwise.
        verifier: Checks access tokens for `as_user`.
    """

    transport: Transport = "psycopg"

    def __init__(self, conninfo: str, *, verifier: Verifier, schema: str, deadline: float, pool_size: int) -> None:
        super().__init__(schema=schema, deadline=deadline, pool_size=pool_size)
        self._conninfo = with_defaults(read(conninfo).text, deadline)
        self._verifier = verifier

    def reset(self) -> None:
        super().reset()
        self._pool: psycopg_pool.ConnectionPool[_Connection] | None = None
        self._loop = OwnLoop(_AsyncPool, _AsyncPool.close, _AsyncPool.close_all)
        self._drained_at = 0.0

    def __repr__(self) -> str:
        return f"PsycopgDriver(schema={self.schema!r})"

    @property
    def address(self) -> str:
        """The connection string, with this driver's defaults in it: a secret."""
        return self._conninfo

    def _pool_options(self) -> dict[str, Any]:
        # Autocommit: each call is one statement, hence one transaction and one round trip, and nothing stays idle in a
        # transaction. No prepared statements: a transaction pooler loses them.
        return {
            "kwargs": {"autocommit": True, "prepare_threshold": None},
            "min_size": 1,
            "max_size": self.pool_size,
            "open": False,
            "timeout": self.deadline,
            "reconnect_timeout": max(self.deadline, 30.0),
        }

    # --- sync

    def _open(self, seconds: float) -> psycopg_pool.ConnectionPool[_Connection]:
        if not self._lock.acquire(timeout=seconds):  # others are connecting, and it takes them as long
            raise Transient(CANNOT_CONNECT)
        try:
            if self._pool is None:
                cls: type[_Connection] = type("_PoolConnection", (_Connection,), {"first": None})
                options = self._pool_options()
                cls.first = cls.connect(self._conninfo, **options["kwargs"])
                pool = psycopg_pool.ConnectionPool(self._conninfo, connection_class=cls, **options)
                pool.open()
                self._pool = pool
            return self._pool
        finally:
            self._lock.release()

    def attempt(
        self, call: Call[T], identity: Identity | None, replay: bool, seconds: float, meter: Meter | None = None
    ) -> T:
        claims = None if identity is None else self._verifier.claims(identity)
        query, params = statement(call, self.schema, replay, meter)
        end = time.monotonic() + seconds
        conn: _Connection | None = None
        pool = self._pool
        try:
            pool = self._pool or self._open(seconds)
            conn = pool.getconn(timeout=max(end - time.monotonic(), 0.001))
            conn.deadline = end
            try:
                return answer(call, self._run(conn, query, params, claims), meter)
            finally:
                conn.deadline = None
                if conn.is_busy():
                    with suppress(psycopg.Error):
                        conn.cancel_safe(timeout=_CANCEL_SECONDS)
                    conn.close()
                pool.putconn(conn)
        except psycopg.Error as error:
            if self._lost(conn) and pool is not None:
                pool.drain()
            elif pool is not None and _must_reopen(error, pool, self._pool):
                with self._lock:
                    self._pool = None if self._pool is pool else self._pool
                threading.Thread(target=_close, args=(pool, 1), daemon=True).start()
                raise Transient(CANNOT_CONNECT) from error
            raise translate(error, connecting=conn is None, late=time.monotonic() >= end) from error

    @staticmethod
    def _run(conn: _Connection, query: bytes, params: dict[str, Any], claims: str | None) -> list[Any]:
        if claims is None:
            return conn.execute(query, params).fetchall()
        try:
            with conn.pipeline():  # queued by hand: all four go out together and are waited for once
                conn.execute("begin")
                conn.execute(BECOME, [claims])
                cursor = conn.execute(query, params)
                conn.execute("commit")
            return cursor.fetchall()
        except psycopg.Error:
            if not conn.closed:
                conn.rollback()
            raise

    def _lost(self, conn: _Care | None) -> bool:
        """Whether the connection is gone and is the first to be found so; then its siblings are suspect too."""
        if conn is None or not conn.closed:  # type: ignore[attr-defined]
            return False
        with self._lock:
            if conn.opened_at < self._drained_at:
                return False
            self._drained_at = time.monotonic()
            return True

    # --- async, on the driver's loop

    async def _aexecute(self, call: Call[T], identity: Identity | None, meter: Meter | None) -> T:
        return await self._loop.run(lambda residents: self._atries(call, identity, residents, meter))

    async def _aopen(self, here: _AsyncPool) -> psycopg_pool.AsyncConnectionPool[_AsyncConnection]:
        async with here.opening:
            if here.pool is None:
                cls: type[_AsyncConnection] = type(
                    "_PoolConnection", (_AsyncConnection,), {"first": None, "opened": here.opened}
                )
                options = self._pool_options()
                cls.first = await cls.connect(self._conninfo, **options["kwargs"])
                pool = psycopg_pool.AsyncConnectionPool(self._conninfo, connection_class=cls, **options)
                try:
                    await pool.open()
                except BaseException:  # cancelled: what it has opened belongs to nobody else
                    await _aclose(pool)
                    raise
                here.pool = pool
            return here.pool

    async def aattempt(
        self,
        call: Call[T],
        identity: Identity | None,
        replay: bool,
        seconds: float,
        residents: _AsyncPool,
        meter: Meter | None = None,
    ) -> T:
        end = time.monotonic() + seconds
        claims = await self._aclaims(identity)
        query, params = statement(call, self.schema, replay, meter)
        conn: _AsyncConnection | None = None
        pool = residents.pool
        try:
            if pool is None:
                try:
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + end - time.monotonic()):
                        pool = await self._aopen(residents)
                except TimeoutError as error:
                    raise Transient(CANNOT_CONNECT) from error
            conn = await pool.getconn(timeout=max(end - time.monotonic(), 0.001))
            conn.deadline = end
            try:
                return answer(call, await self._arun(conn, query, params, claims), meter)
            finally:
                conn.deadline = None
                if conn.is_busy():  # late or cancelled; another cancellation must not lose the connection to the pool
                    await asyncio.shield(self._agive_up(conn, pool))
                else:
                    await pool.putconn(conn)
        except psycopg.Error as error:
            if self._lost(conn) and pool is not None:
                await pool.drain()
            elif pool is not None and _must_reopen(error, pool, residents.pool):
                residents.give_up(pool)
                raise Transient(CANNOT_CONNECT) from error
            raise translate(error, connecting=conn is None, late=time.monotonic() >= end) from error

    @staticmethod
    async def _agive_up(conn: _AsyncConnection, pool: psycopg_pool.AsyncConnectionPool[_AsyncConnection]) -> None:
        with suppress(psycopg.Error):
            await conn.cancel_safe(timeout=_CANCEL_SECONDS)
        await conn.close()
        await pool.putconn(conn)

    async def _aclaims(self, identity: Identity | None) -> str | None:
        if identity is None:
            return None
        if self._verifier.may_wait(identity):  # not on the loop, where all operations would wait with it
            return await asyncio.to_thread(self._verifier.claims, identity)
        return self._verifier.claims(identity)

    @staticmethod
    async def _arun(conn: _AsyncConnection, query: bytes, params: dict[str, Any], claims: str | None) -> list[Any]:
        if claims is None:
            return await (await conn.execute(query, params)).fetchall()
        try:
            async with conn.pipeline():
                await conn.execute("begin")
                await conn.execute(BECOME, [claims])
                cursor = await conn.execute(query, params)
                await conn.execute("commit")
            return await cursor.fetchall()
        except psycopg.Error:
            if not conn.closed:
                await conn.rollback()
            raise

    # --- statistics and close

    def pool_stats(self) -> dict[str, dict[str, int]]:
        residents = self._loop.residents
        pools = {"sync": self._pool, "async": None if residents is None else residents.pool}
        return {kind: pool.get_stats() for kind, pool in pools.items() if pool is not None}

    def is_open(self) -> bool:
        return self._pool is not None or self._loop.is_running

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            _close(pool)
        self._loop.stop()


def _close(pool: psycopg_pool.ConnectionPool[_Connection], seconds: float = 5.0) -> None:
    pool.close(seconds)
    first = pool.connection_class.first
    if first is not None:  # closed before the pool has taken it
        first.close()


async def _aclose(pool: psycopg_pool.AsyncConnectionPool[_AsyncConnection], seconds: float = 5.0) -> None:
    await pool.close(seconds)
    first = pool.connection_class.first
    if first is not None:
        await first.close()


def _must_reopen(error: psycopg.Error, pool: Any, current: Any) -> bool:
    """Whether a pool could not connect: it tries again ever more rarely, a new one does so at once.

    A pool that has been given up so by another thread or task counts too; one that a `close` has closed does not.
    """
    if isinstance(error, psycopg_pool.PoolClosed):
        return current is not None and pool is not current
    return isinstance(error, psycopg_pool.PoolTimeout) and bool(pool.pop_stats().get("connections_errors"))


@contextmanager
def connect(conninfo: str, deadline: float = 30) -> Iterator[psycopg.Connection[Any]]:
    """A single connection, for what is no call: migrations and the doctor. Its errors are ours.

    Raises:
        HistoryError: See `errors.py`.
    """
    connecting = True
    try:
        text = with_defaults(read(conninfo).text, deadline)
        with psycopg.connect(text, autocommit=True, prepare_threshold=None) as conn:
            connecting = False
            yield conn
    except psycopg.Error as error:
        translated = translate(error, connecting=connecting)
        if isinstance(translated, Transient):
            text = f"The database could not be reached: {translated}."
            raise Unavailable(text, code=translated.code, advice=translated.advice) from error
        raise translated from error
