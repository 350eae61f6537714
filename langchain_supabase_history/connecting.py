"""How a `HistoryStore` is made: from the environment, a Supabase project, clients, a connection string, or a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final, Self

from .errors import InvalidInput, NotConfigured, check_placeholders, check_schema
from .identity import Verifier

_ALSO: Final = (
    "A .env file is not read by itself; on Streamlit, root-level entries of the app's secrets are. "
    "To try it without an account: HistoryStore.local()."
)


class Connecting:
    """The constructors of `HistoryStore`, which explains their common options."""

    def __init__(self, driver: Any, **options: Any) -> None:
        raise AssertionError("HistoryStore's own")

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """From the environment: `SUPABASE_DB_URL` (psycopg), else `SUPABASE_URL` and `SUPABASE_KEY` (the Data API).

        Raises:
            NotConfigured: Neither is set; the text says what is there instead.
        """
        from .doctor_environment import NAMES, environment

        given = {name: os.environ.get(name, "") for name in NAMES}
        if given["SUPABASE_DB_URL"]:
            return cls.from_postgres(given["SUPABASE_DB_URL"], **options)
        if given["SUPABASE_URL"] and given["SUPABASE_KEY"]:
            return cls.from_supabase(given["SUPABASE_URL"], given["SUPABASE_KEY"], **options)
        missing = next(environment(given, os.environ))
        raise NotConfigured(missing.says, advice=f"{missing.mend} {_ALSO}")

    @classmethod
    def from_supabase(
        cls, url: str, key: str, *, schema: str = "public", deadline: float = 10, pool_size: int = 10, **options: Any
    ) -> Self:
        """Over the Data API (PostgREST).

        Args:
            url: The project's URL, `https://<project>.supabase.co`.
            key: The secret (service role) key on a server; a publishable one together with `as_user`.
            **options: See the class.
        """
        from .drivers.postgrest import PostgrestDriver

        check_placeholders(url, "SUPABASE_URL")
        check_placeholders(key, "SUPABASE_KEY")
        return cls(PostgrestDriver(url, key, **_driver_options(schema, deadline, pool_size)), **options)

    @classmethod
    def from_client(
        cls, client: Any = None, async_client: Any = None, *, schema: str = "public", deadline: float = 10,
        pool_size: int = 10, **options: Any,
    ) -> Self:  # fmt: skip
        """Over the application's own supabase clients, as whoever is signed in on them. They are not closed.

        Args:
            client: A `supabase.Client`. Without an async one, async operations run in a worker thread.
            async_client: A `supabase.AsyncClient`. Alone, it serves the async methods only.
            **options: See the class.
        """
        from .drivers.postgrest import ClientDriver

        if client is None and options.get("outbox") is not None:
            raise NotConfigured("An outbox sends in the background, which needs a sync supabase client too.")
        if client is None and async_client is None:
            raise NotConfigured("from_client needs a supabase client: supabase.create_client(url, key).")
        for given in (client, async_client):
            if given is not None and not hasattr(type(given), "postgrest"):
                raise NotConfigured(f"from_client needs supabase clients, got {type(given).__name__}.")
        return cls(ClientDriver(client, async_client, **_driver_options(schema, deadline, pool_size)), **options)

    @classmethod
    def from_postgres(
        cls, conninfo: str, *, schema: str = "public", deadline: float = 10, pool_size: int = 10,
        jwt_secret: str | None = None, jwks_url: str | None = None, **options: Any,
    ) -> Self:  # fmt: skip
        """Over psycopg: a direct connection, the session pooler (port 5432) or the transaction pooler (6543).

        Args:
            conninfo: `postgresql://user:password@host:port/postgres`. TLS is required for hosts that are not local,
                unless it says otherwise (`sslmode`).
            jwt_secret: The project's legacy JWT secret, to check the HS256 tokens of `as_user` with.
            jwks_url: `https://<project>.supabase.co/auth/v1/.well-known/jwks.json`, to check ES256 and RS256 ones.
            **options: See the class.
        """
        from .drivers.psycopg import PsycopgDriver

        check_conninfo(conninfo)
        checked = _driver_options(schema, deadline, pool_size)
        return cls(PsycopgDriver(conninfo, verifier=Verifier(jwt_secret, jwks_url, deadline), **checked), **options)

    @classmethod
    def local(cls, path: str | Path | None = None, *, schema: str = "public", **options: Any) -> Self:
        """On an embedded PostgreSQL in a folder, started at need, its schema installed. Needs the extra `[local]`.

        Several processes may share one folder. The server stops when the last process that uses it ends normally;
        a killed one leaves it running, and the next store on the folder takes it over.

        Args:
            path: The folder; by default one in the user's data folder. On POSIX, a path with a blank or another
                character that a shell would not leave alone is refused.
            **options: See the class and `from_postgres`.
        """
        from .local import start
        from .migrations import migrate

        conninfo = start(None if path is None else as_path(path, "path"))
        migrate(conninfo, schema=schema)
        return cls.from_postgres(conninfo, schema=schema, **options)


def number(value: Any, name: str, kind: Any, low: float, of: str = "") -> Any:
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value < 2**31:
        raise InvalidInput(f"{name} must be a number{of} from {low:g} on.")
    return value


def check_conninfo(conninfo: object) -> None:
    """Refuse what is known to be no connection string of PostgreSQL's; the driver sees to the rest.

    Raises:
        NotConfigured: It is not filled in, in SQLAlchemy's form, or a web address.
    """
    check_placeholders(conninfo, "The connection string")
    if not isinstance(conninfo, str):
        return
    if re.match(r"postgres(ql)?\+\w+://", conninfo):
        raise NotConfigured("The connection string is in SQLAlchemy's form.", advice="Begin it with postgresql://.")
    if conninfo.startswith(("https://", "http://")):
        raise NotConfigured(
            "This is a web address, not a connection string.",
            advice="The project's URL and key go to HistoryStore.from_supabase(url, key), or into SUPABASE_URL and "
            "SUPABASE_KEY; a connection string is like postgresql://user:password@host:5432/postgres.",
        )


def as_path(value: Any, name: str) -> Path:
    try:
        return Path(value).expanduser().resolve()
    except (TypeError, ValueError, RuntimeError):  # no path, a NUL in it, no home to put in the place of ~
        raise InvalidInput(f"{name} must be the path of a file or folder.") from None


def _driver_options(schema: str, deadline: float, pool_size: int) -> dict[str, Any]:
    return {
        "schema": check_schema(schema),
        "deadline": number(deadline, "deadline", (int, float), 0.01, " of seconds,"),
        "pool_size": number(pool_size, "pool_size", int, 1),
    }
