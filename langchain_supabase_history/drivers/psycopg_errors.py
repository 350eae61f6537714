"""psycopg's errors as ours: by SQLSTATE, else by the phase in which they came, and last by the server's own words.

A refused login has no SQLSTATE: libpq gives what the server said as text. The one list of such texts is here. What is
not in it may pass, and is tried again: too many connections, a server that starts, a pooler without a free place.
"""

from __future__ import annotations

import os
import re
from typing import Final

import psycopg
import psycopg_pool

from ..errors import (
    LOGIN_ADVICE,
    Forbidden,
    HistoryError,
    NotConfigured,
    StoreClosed,
    Transient,
    from_code,
    is_transient,
)

CANNOT_CONNECT: Final = "no connection could be made"

_TENANT: Final = (
    "Through Supabase's pooler the user is postgres.<project>, and the host is of the project's region: copy the "
    "connection string again (Supabase: Connect). A paused project says this too: restore it in the dashboard."
)
_NETWORK: Final = (
    "Add this machine's address to the project's network restrictions (Supabase: Settings > Database), or lift them."
)
_CONNECT: Final = "Its owner lets a role in by: grant connect on database <name> to <role>."
_SSL: Final = "Write sslmode=require into the connection string, or leave sslmode and ssl out of it."
_BREAKER: Final = (
    "After many logins with a wrong password the pooler lets nobody in for a while: correct user and password wherever "
    "they are used, and wait some minutes."
)
_CROWDED: Final = (
    "All connections are taken: close other clients, lower pool_size (each process may open so many for sync and for "
    "async), go through the transaction pooler (port 6543), or raise the pooler's or the role's limit."
)

# What no further try can change, by the server's own words, and the advice.
_FINAL: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(words, re.IGNORECASE), advice)
    for words, advice in (
        (r"tenant or user not found|tenant\S* (?:\S+ )?not found", _TENANT),
        (r"not in (?:tenant )?allow_?list", _NETWORK),
        (
            r"password authentication failed|sasl authentication failed|wrong password|auth(?:entication)? failed",
            LOGIN_ADVICE,
        ),
        (r"no password supplied|password is required", LOGIN_ADVICE),
        (r'role "[^"]*" does not exist|no such user|is not permitted to log ?in', LOGIN_ADVICE),
        (r'database "[^"]*" does not exist|no such database', LOGIN_ADVICE),
        (r"no pg_hba\.conf entry|pg_hba\.conf rejects", LOGIN_ADVICE),
        (r"permission denied for database", _CONNECT),
        (r"SSL (?:connection )?(?:is )?required", _SSL),
    )
)
# What libpq itself says of a connection string or a variable of PostgreSQL's that it cannot use.
_UNUSABLE: Final = re.compile(
    r"unsupported startup parameter"
    r"|invalid integer value|invalid [\w\" ]+ value: |invalid port number|definition of service|service file"
    r"|weak sslmode|could not parse network address|root certificate file"
    r"|could not (?:open|read|load) .*certificate|private key file",
    re.IGNORECASE,
)
_VARIABLES: Final = tuple(
    f"PG{name}"
    for name in (
        *("HOST", "HOSTADDR", "PORT", "SERVICE", "SERVICEFILE", "CONNECT_TIMEOUT", "TARGETSESSIONATTRS"),
        *("SSLMODE", "SSLROOTCERT", "SSLCERT", "SSLKEY", "SSLNEGOTIATION", "SSLMINPROTOCOLVERSION"),
        *("CHANNELBINDING", "GSSENCMODE", "REQUIREAUTH", "LOADBALANCEHOSTS"),
    )
)
_UNTRUSTED: Final = (
    "The server's certificate is not trusted here: sslrootcert must name the certificate of its authority (Supabase: "
    "Settings > Database > SSL), and the host must be the one that the certificate is for."
)
# What may pass, and what to do meanwhile.
_PASSING: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(words, re.IGNORECASE), advice)
    for words, advice in (
        (
            r"too many (?:connections|clients)|max clients|EMAXCONN|remaining connection slots|connection limit",
            _CROWDED,
        ),
        (r"ECIRCUITBREAKER|too many authentication", _BREAKER),
        (r"certificate verify failed|does not match host name", _UNTRUSTED),
    )
)


def translate(error: psycopg.Error, *, connecting: bool, late: bool = False) -> Exception:
    """The error of ours for one of psycopg's.

    Args:
        connecting: Whether it came before there was a connection.
        late: Whether the try's time was over.
    """
    code = error.sqlstate
    if code is not None:
        detail = error.diag.message_primary or ""
        if not is_transient(code):
            return from_code(code, detail)
        advice = from_code(code, detail).advice if code in ("25006", "53300") else None
        return Transient(f"it answered {code} ({detail})", code, advice)
    if isinstance(error, psycopg_pool.PoolClosed):
        return StoreClosed("The store was closed while this operation ran.")
    if isinstance(error, (psycopg_pool.PoolTimeout, psycopg_pool.TooManyRequests)):
        return Transient("no connection became free", advice=_CROWDED)
    if connecting and isinstance(error, psycopg.ProgrammingError):  # psycopg's own reading of the connection string
        return _unusable(words_of(error))
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        if connecting:
            return _refused(words_of(error))
        return Transient("it did not answer in time" if late else "the connection broke")
    return HistoryError(f"The database driver reported {type(error).__name__}.", advice="Its own words are the cause.")


def _refused(words: str) -> Exception:
    if _UNUSABLE.search(words):
        return _unusable(words)
    for pattern, what_to_do in _FINAL:
        if pattern.search(words):
            return Forbidden(f"The database refused the login: {words}.", advice=what_to_do)
    # A certificate is renewed, and a network that asks for a login first shows one of its own: both pass.
    advice = next((advice for pattern, advice in _PASSING if pattern.search(words)), None)
    return Transient(f"{CANNOT_CONNECT} ({words})", advice=advice)


def _unusable(words: str) -> NotConfigured:
    there = [name for name in _VARIABLES if os.environ.get(name)]
    variables = f" The environment has {', '.join(there)}." if there else ""
    return NotConfigured(
        f"A setting of the connection cannot be used: {words}.{variables}",
        advice="It is in the connection string, or in a variable of PostgreSQL's such as PGPORT: correct it, or leave "
        "it out.",
    )


def words_of(error: psycopg.Error) -> str:
    """Why a connection could not be made, in the server's or the network's own words; they hold no password."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[0].rsplit(" failed: ", 1)[-1].rstrip(".").split())
