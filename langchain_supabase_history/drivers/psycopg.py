"""Calls over psycopg: a direct connection, the session pooler or the transaction pooler."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, ClassVar, Final, TypeVar

import psycopg
import psycopg_pool
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.string import TextLoader

from ..core.call import Call, Json
from ..core.identity import Identity
from ..core.settings import check_placeholders
from ..core.values import loads
from ..errors import (
    LOGIN_ADVICE,
    Forbidden,
    HistoryError,
    NotConfigured,
    StoreClosed,
    Transient,
    Unavailable,
    from_code,
    is_transient,
)
from .arrays import ARRAYS
from .base import Driver
from .verifier import Verifier

T = TypeVar("T")

# One statement says who the transaction is; `role` last, for the login may not set the others any more after it.
_BECOME: Final = """select set_config('request.jwt.claims', %s, true),
  set_config('idle_in_transaction_session_timeout', '15s', true), set_config('role', 'authenticated', true)"""


_CANCEL_SECONDS: Final = 1.0
_CANNOT_CONNECT: Final = "no connection could be made"

_CONNINFO: Final = (
    "It is like postgresql://user:password@host:5432/postgres; characters such as @ : / in the password must be "
    "percent-encoded (%40 %3A %2F)."
)


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
        conn, cls.first = cls.first, None  # the pool's first is the one that was opened to hear the server's own words
        if conn is None:
            conn = super().connect(*args, **kwargs)
            conn.adapters.register_loader("json", TextLoader)  # the parsers read it faster than psycopg would
            conn.opened_at = time.monotonic()
        return conn

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, self.seconds_left() if timeout is None else timeout)


class _AsyncConnection(_Care, psycopg.AsyncConnection[Any]):
    first: ClassVar[_AsyncConnection | None] = None

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> _AsyncConnection:
        conn, cls.first = cls.first, None
        if conn is None:
            conn = await super().connect(*args, **kwargs)
            conn.adapters.register_loader("json", TextLoader)
            conn.opened_at = time.monotonic()
        return conn

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return await super().wait(gen, interval, self.seconds_left() if timeout is None else timeout)


class PsycopgDriver(Driver):
    """Calls our SQL functions through a pool of psycopg connections.

    Args:
        conninfo: A connection string or URL. TLS is required for a host that is not local, unless it says otherwise.
        verifier: Checks access tokens for `as_user`.
    """

    def __init__(self, conninfo: str, *, verifier: Verifier, schema: str, deadline: float, pool_size: int) -> None:
        super().__init__(schema=schema, deadline=deadline, pool_size=pool_size)
        self._conninfo = _with_defaults(conninfo, deadline)
        self._verifier = verifier

    def _reset(self) -> None:
        super()._reset()
        self._pool: psycopg_pool.ConnectionPool[_Connection] | None = None
        self._apool: psycopg_pool.AsyncConnectionPool[_AsyncConnection] | None = None
        self._aopening: Any = None
        self._closing: Any = None
        self._drained_at = 0.0

    def __repr__(self) -> str:
        return f"PsycopgDriver(schema={self.schema!r})"

    @property
    def conninfo(self) -> str:
        """The connection string, with this driver's defaults in it."""
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
            raise Transient(_CANNOT_CONNECT)
        try:
            if self._pool is None:
                cls: type[_Connection] = type("_PoolConnection", (_Connection,), {"first": None})
                options = self._pool_options()
                cls.first = cls.connect(self._conninfo, **options["kwargs"])
                pool = psycopg_pool.ConnectionPool(self._conninfo, connection_class=cls, **options)
                pool.open()
                self._used, self._pool = True, pool
            return self._pool
        finally:
            self._lock.release()

    def attempt(self, call: Call[T], identity: Identity | None, replay: bool, seconds: float) -> T:
        claims = None if identity is None else self._verifier.claims(identity)
        query, params = _statement(call, self.schema, replay)
        end = time.monotonic() + seconds
        conn: _Connection | None = None
        pool = self._pool
        try:
            pool = self._pool or self._open(seconds)
            conn = pool.getconn(timeout=max(end - time.monotonic(), 0.001))
            conn.deadline = end
            try:
                return _answer(call, self._run(conn, query, params, claims))
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
            elif pool is not None and self._must_reopen(error, pool):
                with self._lock:
                    self._pool = None if self._pool is pool else self._pool
                threading.Thread(target=pool.close, kwargs={"timeout": 1}, daemon=True).start()
                raise Transient(_CANNOT_CONNECT) from error
            raise _translate(error, connecting=conn is None, late=time.monotonic() >= end) from error

    @staticmethod
    def _run(conn: _Connection, query: bytes, params: dict[str, Any], claims: str | None) -> list[Any]:
        if claims is None:
            return conn.execute(query, params).fetchall()
        try:
            with conn.pipeline():  # queued by hand: all four go out together and are waited for once
                conn.execute("begin")
                conn.execute(_BECOME, [claims])
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

    def _must_reopen(self, error: psycopg.Error, pool: Any) -> bool:
        """Whether a pool could not connect: it tries again ever more rarely, a new one does so at once.

        A pool that has been given up so by another thread or task counts too.
        """
        if isinstance(error, psycopg_pool.PoolClosed):
            return self._used and pool not in (self._pool, self._apool)
        return isinstance(error, psycopg_pool.PoolTimeout) and bool(pool.pop_stats().get("connections_errors"))

    # --- async, on the driver's loop

    async def _aopen(self) -> psycopg_pool.AsyncConnectionPool[_AsyncConnection]:
        if self._aopening is None:
            self._aopening = asyncio.Lock()
        async with self._aopening:
            if self._apool is None:
                cls: type[_AsyncConnection] = type("_PoolConnection", (_AsyncConnection,), {"first": None})
                options = self._pool_options()
                cls.first = await cls.connect(self._conninfo, **options["kwargs"])
                pool = psycopg_pool.AsyncConnectionPool(self._conninfo, connection_class=cls, **options)
                try:
                    await pool.open()
                except BaseException:  # cancelled: what it has opened belongs to nobody else
                    await pool.close()
                    raise
                self._used, self._apool = True, pool
            return self._apool

    async def aattempt(self, call: Call[T], identity: Identity | None, replay: bool, seconds: float) -> T:
        end = time.monotonic() + seconds
        claims = await self._aclaims(identity)
        query, params = _statement(call, self.schema, replay)
        conn: _AsyncConnection | None = None
        pool = self._apool
        try:
            if pool is None:
                try:
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + end - time.monotonic()):
                        pool = await self._aopen()
                except TimeoutError as error:
                    raise Transient(_CANNOT_CONNECT) from error
            conn = await pool.getconn(timeout=max(end - time.monotonic(), 0.001))
            conn.deadline = end
            try:
                return _answer(call, await self._arun(conn, query, params, claims))
            finally:
                conn.deadline = None
                if conn.is_busy():
                    with suppress(psycopg.Error):
                        await conn.cancel_safe(timeout=_CANCEL_SECONDS)
                    await conn.close()
                await pool.putconn(conn)
        except psycopg.Error as error:
            if self._lost(conn) and pool is not None:
                await pool.drain()
            elif pool is not None and self._must_reopen(error, pool):
                self._apool = None if self._apool is pool else self._apool
                self._closing = asyncio.ensure_future(pool.close(timeout=1))
                raise Transient(_CANNOT_CONNECT) from error
            raise _translate(error, connecting=conn is None, late=time.monotonic() >= end) from error

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
                await conn.execute(_BECOME, [claims])
                cursor = await conn.execute(query, params)
                await conn.execute("commit")
            return await cursor.fetchall()
        except psycopg.Error:
            if not conn.closed:
                await conn.rollback()
            raise

    # --- close

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        super().close()

    async def _aclose(self) -> None:
        pool, self._apool, self._aopening = self._apool, None, None
        if pool is not None:
            await pool.close()


def _statement(call: Call[Any], schema: str, replay: bool) -> tuple[bytes, dict[str, Any]]:
    args = call.arguments(replay=replay)
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


def _answer(call: Call[T], rows: Sequence[tuple[Any, ...]]) -> T:
    if call.parse_rows is not None:
        return call.parse_rows(rows)
    text = rows[0][0]
    return call.parse(None if text is None else loads(text))


def _translate(error: psycopg.Error, *, connecting: bool, late: bool = False) -> Exception:
    """The error of ours for one of psycopg's: by SQLSTATE, else by what stage it came from, and whether it was late."""
    code = error.sqlstate
    if code is not None:
        detail = error.diag.message_primary or ""
        return Transient(f"it answered {code} ({detail})", code) if is_transient(code) else from_code(code, detail)
    if isinstance(error, psycopg_pool.PoolClosed):
        return StoreClosed("The store was closed while this operation ran.")
    if isinstance(error, (psycopg_pool.PoolTimeout, psycopg_pool.TooManyRequests)):
        return Transient("no connection became free")
    # A refused login has no SQLSTATE: libpq tells only whether the server had asked for a password when it gave up.
    pgconn = error.pgconn
    if connecting and pgconn is not None and (pgconn.used_password or pgconn.needs_password):
        return Forbidden(
            f"The database refused the login: {_words(error)}.",
            advice=LOGIN_ADVICE,
        )
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        if connecting:
            return Transient(f"{_CANNOT_CONNECT} ({_words(error)})")
        return Transient("it did not answer in time" if late else "the connection broke")
    return HistoryError(f"The database driver reported {type(error).__name__}.", advice="Its own words are the cause.")


def _words(error: psycopg.Error) -> str:
    """Why a connection could not be made, in the server's or the network's own words; they hold no password."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[0].rsplit(" failed: ", 1)[-1].rstrip(".").split())


@contextmanager
def connect(conninfo: str, deadline: float = 30) -> Iterator[psycopg.Connection[Any]]:
    """A single connection, for what is no call: migrations and the doctor. Its errors are ours.

    Raises:
        HistoryError: See `errors.py`.
    """
    connecting = True
    try:
        with psycopg.connect(_with_defaults(conninfo, deadline), autocommit=True, prepare_threshold=None) as conn:
            connecting = False
            yield conn
    except psycopg.Error as error:
        translated = _translate(error, connecting=connecting)
        if isinstance(translated, Transient):
            raise Unavailable(f"The database could not be reached: {translated}.", code=translated.code) from error
        raise translated from error


def _listed(ports: object) -> list[str]:
    return [port for port in str(ports or "").split(",") if port]


def _is_local(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _with_defaults(conninfo: str, deadline: float) -> str:
    """The connection string with what it does not say itself: TLS for hosts that are not local, and keep-alive."""
    if not isinstance(conninfo, str) or not conninfo:
        raise NotConfigured("from_postgres needs a connection string.", advice=_CONNINFO)
    check_placeholders(conninfo, "The connection string")
    try:
        given = conninfo_to_dict(conninfo)
        # An unescaped password spills into the parts after it, which errors would then repeat.
        spilt = "://" in conninfo and any("@" in str(given.get(part) or "") for part in ("host", "dbname"))
        if spilt or not all(port.isdigit() and 0 < int(port) < 65536 for port in _listed(given.get("port"))):
            raise ValueError
    except (psycopg.Error, ValueError):
        # Without its cause, whose text repeats the string, password included.
        raise NotConfigured("The connection string cannot be read.", advice=_CONNINFO) from None
    if given.get("sslmode") not in (None, "disable", "allow", "prefer", "require", "verify-ca", "verify-full"):
        raise NotConfigured(
            "The connection string's sslmode is unknown to PostgreSQL.",
            advice="Use require or verify-full, or leave it out.",
        )
    hosts = str(given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST") or "").split(",")
    defaults: dict[str, Any] = {
        "connect_timeout": max(2, int(deadline / 2)),
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "application_name": "langchain_supabase_history",
    }
    if not all(map(_is_local, hosts)) and not os.environ.get("PGSSLMODE"):
        defaults["sslmode"] = "require"
    return make_conninfo("", **{**defaults, **given})
