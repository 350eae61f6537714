"""Connection strings: read, checked, and with the defaults that they do not say themselves."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..core.settings import check_placeholders
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
}
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

    Quotation marks, blanks, a `psql` in front and SQLAlchemy's and JDBC's prefixes are taken off; parameters of other
    tools are left out, `ssl=` is translated.

    Args:
        name: What it is called where it is refused.

    Raises:
        NotConfigured: It is none. The text repeats nothing of it but the names of parameters.
    """
    if not isinstance(given, str) or not given.strip():
        raise NotConfigured("from_postgres needs a connection string.", advice=_ADVICE)
    check_placeholders(given, name)
    text = given.strip().lstrip("\ufeff").strip()
    text = re.sub(r"^psql\s+", "", text).strip().rstrip(";").strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    if any(character in text for character in "\r\n\t"):
        raise NotConfigured(f"{name} has a line break or a tab in it.", advice="Copy it anew, in one line.")
    if re.match(r"https?://", text, re.IGNORECASE):
        raise NotConfigured(
            "This is a web address, not a connection string.",
            advice="The project's URL and key go to HistoryStore.from_supabase(url, key), or into SUPABASE_URL and "
            "SUPABASE_KEY; a connection string is like postgresql://user:password@host:5432/postgres.",
        )
    notes = [f"it was read as {name.lower()} without what stood around it"] if text != given else []
    text, prefix_note = _without_prefix(text)
    notes += prefix_note
    if "://" in text:
        text, of_parameters = _translated(text)
        notes += of_parameters
    return Reading(text, tuple(notes))


def _without_prefix(text: str) -> tuple[str, list[str]]:
    found = re.match(r"(?i)(jdbc:)?(postgres(?:ql)?)(\+\w+)?://", text)
    if found is None:
        return text, []
    plain = "postgresql://" + text[found.end() :]
    other = "SQLAlchemy's" if found[3] else "JDBC's" if found[1] else None
    return plain, [f"it is in {other} form; the prefix was read as postgresql://"] if other else []


def _translated(text: str) -> tuple[str, list[str]]:
    """A URL without the parameters of other tools, and what became of them."""
    address, question_mark, query = text.partition("?")
    if not question_mark:
        return text, []
    kept: list[tuple[str, str]] = []
    notes: list[str] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _OTHERS:
            notes.append(f"{name} is a parameter of {_OTHERS[name]}, and was left out")
        elif name == "ssl":
            mode = _SSL.get(value.lower())
            if mode is None:
                raise NotConfigured("The connection string's ssl= is unknown.", advice="Write sslmode=require.")
            kept.append(("sslmode", mode))
            notes.append(f"ssl= was read as sslmode={mode}")
        else:
            kept.append((name, value))
    if not notes:
        return text, []
    return address + ("?" + urlencode(kept, quote_via=quote) if kept else ""), notes


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
    if found and found[1] in {name for name, _ in parse_qsl(conninfo.partition("?")[2], keep_blank_values=True)}:
        return NotConfigured(
            f"The connection string has a parameter {found[1]}, which PostgreSQL does not know.",
            advice="It is of another tool: leave it out.",
        )
    return NotConfigured("The connection string cannot be read.", advice=_ADVICE)
