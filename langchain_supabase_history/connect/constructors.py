"""How a `HistoryStore` is made: from the environment, a Supabase project, clients, a connection string, or a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from langchain_core.messages import BaseMessage

from ..core.settings import as_path
from ..errors import NotConfigured
from ..operations.scope import OnError
from .drivers import driver_from_client, driver_from_env, driver_from_pool, driver_from_postgres, driver_from_supabase

if TYPE_CHECKING:
    from langsmith import Client

    from ..drivers.base import Driver
    from ..drivers.observe import OnOperation


class StoreOptions(TypedDict, total=False):
    """Options of the store itself; explained at the class."""

    on_error: OnError | None
    on_operation: OnOperation | None
    max_message_bytes: int
    count_tokens: Callable[[BaseMessage], int] | None
    langsmith_client: Client | None
    outbox: str | os.PathLike[str] | None


class Options(StoreOptions, total=False):
    """Options that all constructors share; explained at the class."""

    schema: str
    deadline: float
    pool_size: int


class TokenOptions(TypedDict, total=False):
    """How access tokens are checked over psycopg; explained at `from_postgres`."""

    jwt_secret: str | None
    jwks_url: str | None
    audience: str | None


class PostgresOptions(Options, TokenOptions, total=False):
    """Options of the constructors over psycopg."""


class PoolOptions(StoreOptions, TokenOptions, total=False):
    """Options of `from_pool`: the pools' sizes are their own."""

    schema: str
    deadline: float


_OF_STORE = StoreOptions.__annotations__.keys()


def _parted(constructor: str, known: type, options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the driver, and those of the store.

    Raises:
        NotConfigured: The constructor has no option of that name.
    """
    for name in sorted(options.keys() - known.__annotations__.keys()):
        near = get_close_matches(name, known.__annotations__, 1)
        raise NotConfigured(
            f"{constructor} has no option {name!r}.",
            advice=f"Did you mean {near[0]}?" if near else f"It has: {', '.join(sorted(known.__annotations__))}.",
        )
    of_store = {name: value for name, value in options.items() if name in _OF_STORE}
    return {name: value for name, value in options.items() if name not in _OF_STORE}, of_store


class Connecting:
    """The constructors of `HistoryStore`, which explains their common options."""

    if TYPE_CHECKING:

        def __init__(self, driver: Driver[Any], **options: Unpack[StoreOptions]) -> None: ...

    @classmethod
    def from_env(cls, **options: Unpack[PostgresOptions]) -> Self:
        """From the environment: `SUPABASE_DB_URL` (psycopg), else `SUPABASE_URL` and `SUPABASE_KEY` (the Data API).

        Args:
            **options: See the class and `from_postgres`. The Data API checks tokens itself: what is for that
                (`jwt_secret`, `jwks_url`, `audience`) is not needed there, and not used.

        Raises:
            NotConfigured: Neither is set; the text says what is there instead.
        """
        of_driver, of_store = _parted("from_env", PostgresOptions, options)
        return cls(driver_from_env(**of_driver), **of_store)

    @classmethod
    def from_supabase(cls, url: str, key: str, **options: Unpack[Options]) -> Self:
        """Over the Data API (PostgREST).

        Args:
            url: The project's URL, `https://<project>.supabase.co`.
            key: The secret (service role) key on a server; a publishable one together with `as_user`.
            **options: See the class.
        """
        of_driver, of_store = _parted("from_supabase", Options, options)
        return cls(driver_from_supabase(url, key, **of_driver), **of_store)

    @classmethod
    def from_client(cls, client: Any = None, async_client: Any = None, **options: Unpack[Options]) -> Self:
        """Over the application's own supabase clients, as whoever is signed in on them. They are not closed.

        Args:
            client: A `supabase.Client`. Without an async one, async operations run in a worker thread.
            async_client: A `supabase.AsyncClient`. Alone, it serves the async methods only.
            **options: See the class. The schema is the clients' own (`ClientOptions(schema=...)`).

        Raises:
            NotConfigured: It is no supabase client, or the clients and the options name different schemas.
        """
        of_driver, of_store = _parted("from_client", Options, options)
        if client is None and of_store.get("outbox") is not None:
            raise NotConfigured("An outbox sends in the background, which needs a sync supabase client too.")
        return cls(driver_from_client(client, async_client, **of_driver), **of_store)

    @classmethod
    def from_postgres(cls, conninfo: str, **options: Unpack[PostgresOptions]) -> Self:
        """Over psycopg: a direct connection, the session pooler (port 5432) or the transaction pooler (6543).

        Args:
            conninfo: `postgresql://user:password@host:port/postgres`. TLS is required for hosts that are not local,
                unless it says otherwise (`sslmode`).
            jwt_secret: The project's legacy JWT secret, to check the HS256 tokens of `as_user` with.
            jwks_url: `https://<project>.supabase.co/auth/v1/.well-known/jwks.json`, to check ES256 and RS256 ones.
            audience: The tokens' `aud`: `authenticated`, as Supabase's have it; None where they carry none.
            **options: See the class.
        """
        of_driver, of_store = _parted("from_postgres", PostgresOptions, options)
        return cls(driver_from_postgres(conninfo, **of_driver), **of_store)

    @classmethod
    def from_pool(cls, pool: Any = None, async_pool: Any = None, **options: Unpack[PoolOptions]) -> Self:
        """Through the application's own psycopg pools, which are not closed. Each call is one transaction of its own.

        Args:
            pool: A `psycopg_pool.ConnectionPool`. Without an async one, async operations run in a worker thread.
            async_pool: An `AsyncConnectionPool`, used on the event loop that it was opened on. Alone, it serves the
                async methods only.
            **options: See the class and `from_postgres`.

        Raises:
            NotConfigured: It is no pool of psycopg's.
        """
        of_driver, of_store = _parted("from_pool", PoolOptions, options)
        if pool is None and of_store.get("outbox") is not None:
            raise NotConfigured("An outbox sends in the background, which needs a sync pool too.")
        return cls(driver_from_pool(pool, async_pool, **of_driver), **of_store)

    @classmethod
    def local(cls, path: str | Path | None = None, **options: Unpack[PostgresOptions]) -> Self:
        """On an embedded PostgreSQL in a folder, started at need, its schema installed. Needs the extra `[local]`.

        Several processes may share one folder. The server stops when the last process that uses it ends normally;
        a killed one leaves it running, and the next store on the folder takes it over.

        Args:
            path: The folder; by default one in the user's data folder. On POSIX, a path with a blank or another
                character that a shell would not leave alone is refused.
            **options: See the class and `from_postgres`.
        """
        from ..migrations import migrate
        from .local import start

        _parted("local", PostgresOptions, options)
        conninfo = start(None if path is None else as_path(path, "path"))
        migrate(conninfo, schema=options.get("schema", "public"))
        return cls.from_postgres(conninfo, **options)
