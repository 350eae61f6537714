"""Connection strings: read, checked, and with the defaults that they do not say themselves."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..core.settings import check_placeholders, check_visible, unwrapped
from ..errors import NotConfigured

_ADVICE: Final = (
    "It is like postgresql://user:password@host:5432/postgres; characters such as @ : / in the password must be "
    "percent-encoded (%40 %3A %2F)."
)

# Parameters that other tools write into a connection string: of no use here, and of no harm.
_OTHERS: Final = {
    "pgbouncer": "Prisma",
    "connection_limit": "Prisma",
    "pool_timeout": "Prisma",
    "schema": "Prisma",
    "socket_timeout": "Prisma",
    "statement_cache_size": "Prisma and asyncpg",
    "prepareThreshold": "JDBC",
    "preparedStatements": "JDBC",
    "workaround": "Supabase's pooler",
    "supa": "Vercel",
    "uselibpqcompat": "node-postgres",
    "charset": "MySQL's clients",
    "prepared_statements": "Rails",
    "pool": "Rails",
    "reconnect": "Rails",
    "default_query_exec_mode": "pgx",
    "pool_max_conns": "pgx",
    "binary_parameters": "lib/pq",
    "ApplicationName": "JDBC",
    "currentSchema": "JDBC",
    "command_timeout": "asyncpg",
    "prepared_statement_cache_size": "SQLAlchemy",
    "prepared_statement_name_func": "SQLAlchemy",
    "async_fallback": "SQLAlchemy",
    "pool_size": "SQLAlchemy",
    "max_overflow": "SQLAlchemy",
    "server_settings": "asyncpg",
    "statement_timeout": "node-postgres",
    "query_timeout": "node-postgres",
    "idle_timeout": "node-postgres",
    "max": "node-postgres",
    "sslaccept": "Prisma",
    "sslidentity": "Prisma",
    "pool_mode": "Supabase's pooler",
    "pool_max_conn_lifetime": "pgx",
    "pool_max_conn_idle_time": "pgx",
    "pool_min_conns": "pgx",
    "search_path": "pgx",
    "timezone": "pgx",
    "loginTimeout": "JDBC",
    "socketTimeout": "JDBC",
    "connectTimeout": "JDBC",
    "tcpKeepAlive": "JDBC",
    "stringtype": "JDBC",
    "reWriteBatchedInserts": "JDBC",
    "sslfactory": "JDBC",
    "conn_max_age": "Django",
}
_OTHERS_LOWER: Final = {name.lower(): tool for name, tool in _OTHERS.items()}
_SSL: Final = {
    "require": "require",
    "required": "require",
    "true": "require",
    "1": "require",
    "no-verify": "require",
    "verify-full": "verify-full",
    "verify-ca": "verify-ca",
    "prefer": "prefer",
    "allow": "allow",
    "false": "disable",
    "0": "disable",
    "disable": "disable",
}
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True)
class Reading:
    """A connection string as it can be used.

    Attributes:
        text: The connection string.
        notes: What of it was left out or translated; without any value.
    """

    text: str
    notes: tuple[str, ...] = ()


def read(given: object, name: str = "The connection string") -> Reading:
    """Read a connection string, in the forms in which people have it.

    What was copied along with it, a `psql` around it and SQLAlchemy's and JDBC's prefixes are removed; parameters of
    other tools are left out, `ssl=` is translated.

    Args:
        name: What it is called where it is refused.

    Raises:
        NotConfigured: It is none. The text repeats nothing of it but the names of parameters.
    """
    if not isinstance(given, str) or not given.strip():
        raise NotConfigured("from_postgres needs a connection string.", advice=_ADVICE)
    check_placeholders(given, name)
    notes: list[str] = []
    text = given.strip() if _PSQL.match(given.strip()) else unwrapped(given)
    if _PSQL.match(text):
        text = unwrapped(_of_command(text, name))
        notes.append("it was read from a psql command")
    if "://" in text and " " not in text:  # unpaired quotation marks too: in a URL they would be percent-encoded
        text = (text if "?" in text else text.rstrip(";,")).strip("'\"`")
    if not notes and text != given:
        notes.append("what was copied along with it was left out: quotation marks, blanks or a name")
    check_visible(text, name)
    if re.match(r"(?i)https?://", text):
        raise NotConfigured(
            f"{name} holds a web address. It is for a connection string.",
            advice="The project's URL and key go to HistoryStore.from_supabase(url, key), or into SUPABASE_URL and "
            "SUPABASE_KEY; a connection string is like postgresql://user:password@host:5432/postgres "
            "(Supabase: Connect > Connection string).",
        )
    if (dotnet := _of_dotnet(text)) is not None:
        text = dotnet
        notes.append("it was read from .NET's form")
    text, prefix_note = _without_prefix(text)
    text, of_parameters = _translated(text)
    return Reading(text, tuple(notes + prefix_note + of_parameters))


_PSQL: Final = re.compile(r"(?:\$\s*)?(?:[A-Z]+=\S+\s+)*(?:\S*[/\\])?psql(?:\.exe)?(?:\s|$)")
_ASKS: Final = ("-W", "--password", "-w", "--no-password")  # whether psql asks for the password
_FLAGS: Final = {
    "-h": "host",
    "--host": "host",
    "-p": "port",
    "--port": "port",
    "-d": "dbname",
    "--dbname": "dbname",
    "-U": "user",
    "--username": "user",
}


def _of_command(command: str, name: str) -> str:
    """The connection string of a psql command.

    Raises:
        NotConfigured: The command cannot be read, or does something besides connecting.
    """
    refusal = NotConfigured(f"{name} is a psql command that cannot be read.", advice=_ADVICE)
    try:
        words = shlex.split(command)
    except ValueError:
        raise refusal from None
    at = next((n for n, word in enumerate(words) if _PSQL.fullmatch(word)), None)
    if at is None:
        raise refusal
    found: dict[str, str] = {}
    for word in words[:at]:
        if word.startswith("PGPASSWORD="):
            found["password"] = word.partition("=")[2]
    rest = words[at + 1 :]
    while rest:
        word = rest.pop(0).rstrip(";")
        flag, equals, value = word.partition("=")
        if flag in _FLAGS and (equals or rest):
            found[_FLAGS[flag]] = value if equals else rest.pop(0)
        elif word[:2] in _FLAGS and len(word) > 2 and word[1] != "-":
            found[_FLAGS[word[:2]]] = word[2:]
        elif word and not word.startswith("-") and "dbname" not in found:
            found["dbname"] = word
        elif word and word not in _ASKS:
            raise refusal
    if not found:
        raise refusal
    inner = found.get("dbname", "")
    if "://" in inner or "=" in inner:  # psql takes a whole connection string for the database's name
        return inner
    return make_conninfo("", **{key: value for key, value in found.items() if value})


_DOTNET: Final = {
    "host": "host",
    "server": "host",
    "port": "port",
    "database": "dbname",
    "password": "password",
    "username": "user",
    "user id": "user",
    "userid": "user",
    "user name": "user",
    "pwd": "password",
    "ssl mode": "sslmode",
    "sslmode": "sslmode",
}
_DOTNET_SSL: Final = {"verifyca": "verify-ca", "verifyfull": "verify-full"}


def _of_dotnet(text: str) -> str | None:
    """The connection string of `Server=...;User Id=...`, as Supabase shows it for .NET; None for what is none."""
    found: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        key = _DOTNET.get(name.strip().lower())
        if key is not None:
            found[key] = value.strip()
        elif equals or part.strip():
            return None
    if "://" in text or len(found) < 2 or any(set(found.get(key, "")) & set(" =") for key in ("host", "port", "user")):
        return None
    if mode := found.get("sslmode"):
        found["sslmode"] = _DOTNET_SSL.get(mode.lower(), mode.lower())
    return make_conninfo("", **found)


def _without_prefix(text: str) -> tuple[str, list[str]]:
    found = re.match(r"(?i)(jdbc:)?(postgres(?:ql)?)(\+\w+)?://", text)
    if found is None:
        return text, []
    plain = "postgresql://" + text[found.end() :]
    other = "SQLAlchemy's" if found[3] else "JDBC's" if found[1] else None
    return plain, [f"it is in {other} form; the prefix was read as postgresql://"] if other else []


# name = value, as libpq reads them: a value in single quotes, or up to a blank; a backslash takes the next as it is.
_PARAMETER: Final = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|$)", re.DOTALL)


# In a URL, what is behind the question mark of the path: one in the password is libpq's password.
_QUERY: Final = re.compile(r"(\w+://[^/]*/[^?]*|[^?]*)\?(.*)", re.DOTALL)


def _translated(text: str) -> tuple[str, list[str]]:
    """A connection string without the parameters of other tools, and what became of them."""
    if "://" in text:
        address, query = found.groups() if (found := _QUERY.fullmatch(text)) else (text, "")
        given = [tuple(part.partition("=")[::2]) for part in query.split("&") if part]
        kept, notes = _known([(unquote(name), value) for name, value in given])
        query = "&".join(f"{name}={value}" for name, value in kept)
        return (f"{address}?{query}" if query else address, notes) if notes else (text, [])
    end, pairs = 0, []
    while found := _PARAMETER.match(text, end):
        end = found.end()
        pairs.append((found[1], found[2]))
    if text[end:].strip():
        return text, []
    kept, notes = _known(pairs)
    return (" ".join(f"{name}={value}" for name, value in kept), notes) if notes else (text, [])


def _known(given: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[str]]:
    """The parameters that libpq knows, and what became of the others. What `sslmode` says goes before any `ssl`."""
    says_mode = any(name.lower() == "sslmode" for name, _ in given)
    kept: list[tuple[str, str]] = []
    notes: list[str] = []
    for name, value in given:
        if (tool := _OTHERS_LOWER.get(name.lower())) is not None:
            notes.append(f"{name} is a parameter of {tool}, and was left out")
        elif name.lower() == "ssl":
            mode = _SSL.get(unquote(value).strip("'").lower())
            if mode is None:
                raise NotConfigured("The connection string's ssl= is unknown.", advice="Write sslmode=require.")
            if says_mode:
                notes.append("ssl= was left out beside sslmode=")
            else:
                kept.append(("sslmode", mode))
                notes.append(f"ssl= was read as sslmode={mode}")
        elif name.lower() == "sslmode" and (name != "sslmode" or value == "no-verify"):
            mode = "require" if value == "no-verify" else value
            kept.append(("sslmode", mode))
            notes.append(f"{name}= was read as sslmode={mode if mode in _SSL_MODES else '...'}")
        else:
            kept.append((name, value))
    return kept, notes


def _listed(ports: object) -> list[str]:
    return [port for port in str(ports or "").split(",") if port]


def _is_local(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def with_defaults(conninfo: str, deadline: float) -> str:
    """A connection string that was read, with what it does not say itself: TLS for hosts that are not local, and
    keep-alive.

    Raises:
        NotConfigured: PostgreSQL's client library cannot read it.
    """
    try:
        given = conninfo_to_dict(conninfo)
        # An unescaped password spills into the parts after it, which errors would then repeat.
        spilt = "://" in conninfo and any("@" in str(given.get(part) or "") for part in ("host", "dbname"))
        if spilt or not all(port.isdigit() and 0 < int(port) < 65536 for port in _listed(given.get("port"))):
            raise ValueError
    except (psycopg.Error, ValueError) as error:
        # Without its cause, whose text repeats the string, password included.
        raise _unreadable(conninfo, str(error)) from None
    if given.get("sslmode") not in (None, *_SSL_MODES):
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


def _unreadable(conninfo: str, words: str) -> NotConfigured:
    """Why a connection string cannot be read: by the name of an unknown parameter, where libpq gives one."""
    found = re.search(r'invalid (?:URI query parameter|connection option):? "([A-Za-z_]{1,40})"', words)
    if found and re.search(rf"(?:[?&]|^|\s){found[1]}\s*=", conninfo):
        return NotConfigured(
            f"The connection string has a parameter {found[1]}, which PostgreSQL does not know.",
            advice="It is of another tool: leave it out.",
        )
    return NotConfigured("The connection string cannot be read.", advice=_ADVICE)
