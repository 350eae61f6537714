"""The driver for a way to reach the database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from ..core.settings import check_limit, check_schema
from ..errors import NotConfigured
from .environment import NAMES, find_missing

if TYPE_CHECKING:
    from ..drivers.base import Driver

_ALSO: Final = (
    "A .env file is not read by itself; on Streamlit, root-level entries of the app's secrets are. "
    "To try it without an account: HistoryStore.local()."
)


def driver_from_env(**options: Any) -> Driver[Any]:
    """For what the environment names; see `HistoryStore.from_env`."""
    from ..drivers.conninfo import read

    given = {name: os.environ.get(name, "") for name in NAMES}
    if (missing := find_missing(given, os.environ)) is not None:
        raise NotConfigured(missing.says, advice=f"{missing.fix} {_ALSO}")
    if given["SUPABASE_DB_URL"]:
        return driver_from_postgres(read(given["SUPABASE_DB_URL"], "SUPABASE_DB_URL").text, **options)
    for name in ("jwt_secret", "jwks_url", "audience"):  # the Data API checks tokens itself
        options.pop(name, None)
    return driver_from_supabase(given["SUPABASE_URL"], given["SUPABASE_KEY"], **options)


def driver_from_supabase(
    url: str, key: str, *, schema: str = "public", deadline: float = 10, pool_size: int = 10
) -> Driver[Any]:
    """Over the Data API; see `HistoryStore.from_supabase`."""
    from ..drivers.data_api import DataApiDriver

    return DataApiDriver(url, key, **_checked(schema, deadline, pool_size))


def driver_from_client(
    client: Any, async_client: Any, *, schema: str | None = None, deadline: float = 10, pool_size: int = 10
) -> Driver[Any]:
    """Over the application's own supabase clients; see `HistoryStore.from_client`."""
    from ..drivers.supabase_client import ClientDriver

    if client is None and async_client is None:
        raise NotConfigured("from_client needs a supabase client: supabase.create_client(url, key).")
    for given in (client, async_client):
        if given is not None and not hasattr(type(given), "postgrest"):
            raise NotConfigured(f"from_client needs supabase clients, got {type(given).__name__}.")
    schema = _schema_of((client, async_client), schema)
    return ClientDriver(client, async_client, **_checked(schema, deadline, pool_size))


def _schema_of(clients: tuple[Any, ...], wanted: str | None) -> str:
    """The schema that clients were made for. Only `public`, which is no choice, may give way to another."""
    given = {str(client.options.schema) for client in clients if client is not None}
    if wanted is not None:
        given = given - {"public"} | {wanted}
    if len(given) > 1:
        raise NotConfigured(
            f"The supabase clients and from_client name different schemas: {', '.join(sorted(given))}.",
            advice="Name one: ClientOptions(schema=...) alone is enough.",
        )
    return given.pop()


def driver_from_pool(
    pool: Any,
    async_pool: Any,
    *,
    schema: str = "public",
    deadline: float = 10,
    jwt_secret: str | None = None,
    jwks_url: str | None = None,
    audience: str | None = "authenticated",
) -> Driver[Any]:
    """Through the application's own pools; see `HistoryStore.from_pool`."""
    from ..drivers.own_pool import PoolDriver
    from ..drivers.verifier import Verifier

    checked = _checked(schema, deadline, 1)
    del checked["pool_size"]  # the pools' own
    return PoolDriver(pool, async_pool, verifier=Verifier(jwt_secret, jwks_url, deadline, audience), **checked)


def driver_from_postgres(
    conninfo: str,
    *,
    schema: str = "public",
    deadline: float = 10,
    pool_size: int = 10,
    jwt_secret: str | None = None,
    jwks_url: str | None = None,
    audience: str | None = "authenticated",
) -> Driver[Any]:
    """Over psycopg; see `HistoryStore.from_postgres`."""
    from ..drivers.psycopg import PsycopgDriver
    from ..drivers.verifier import Verifier

    checked = _checked(schema, deadline, pool_size)
    return PsycopgDriver(conninfo, verifier=Verifier(jwt_secret, jwks_url, deadline, audience), **checked)


def _checked(schema: str, deadline: float, pool_size: int) -> dict[str, Any]:
    return {
        "schema": check_schema(schema),
        "deadline": check_limit(deadline, "deadline", (int, float), 0.01, " of seconds,"),
        "pool_size": check_limit(pool_size, "pool_size", int, 1),
    }
