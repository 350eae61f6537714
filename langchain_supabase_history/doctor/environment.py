"""The doctor's checks of an application's settings: environment variables, addresses and keys. No network.

Values are looked at and never shown: a finding names variables and kinds alone.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from ..connect.environment import claims, find_missing, is_public
from ..drivers.addresses import read_key, read_url
from ..drivers.conninfo import read
from ..errors import NotConfigured


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: What was looked at.
        status: "ok", "warning" (works, but see) or "fault" (does not work, or is not safe).
        says: What was found.
        fix: What to do or run; empty where there is nothing to fix.
    """

    name: str
    status: Literal["ok", "warning", "fault"]
    says: str
    fix: str = ""


def ok(name: str, says: str) -> Finding:
    return Finding(name, "ok", says)


def warning(name: str, says: str, fix: str) -> Finding:
    return Finding(name, "warning", says, fix)


def fault(name: str, says: str, fix: str) -> Finding:
    return Finding(name, "fault", says, fix)


def environment(given: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[Finding]:
    """Which of our variables there are, and which seem to be under another name.

    Args:
        given: The settings in use, by variable name: options first, then the environment.
        environ: The environment.
    """
    if (missing := find_missing(given, environ)) is not None:
        yield fault("environment", missing.says, missing.fix)
    elif given.get("SUPABASE_DB_URL"):
        unused = bool(given.get("SUPABASE_URL") and given.get("SUPABASE_KEY"))
        also = " SUPABASE_URL and SUPABASE_KEY are there too, and not used." if unused else ""
        yield ok("environment", f"SUPABASE_DB_URL is set, so the database is reached over psycopg.{also}")
    else:
        yield ok("environment", "SUPABASE_URL and SUPABASE_KEY are set, so the database is reached over the Data API.")


def address(given: Mapping[str, str]) -> Iterator[Finding]:
    """What the constructors make of the values: why one cannot be used, and what of a connection string they leave out.

    Says nothing where all is well.
    """
    try:
        if given.get("SUPABASE_DB_URL"):
            for note in read(given["SUPABASE_DB_URL"], "SUPABASE_DB_URL").notes:
                yield ok("address", f"SUPABASE_DB_URL: {note}.")
        else:
            read_url(given.get("SUPABASE_URL"))
            read_key(given.get("SUPABASE_KEY"))
    except NotConfigured as error:
        yield fault("address", error.says, error.advice)


_SECRET: Final = "Take the secret key (Supabase: Settings > API Keys), and keep it on servers."  # noqa: S105
_PUBLIC: Final = (
    "On a server set SUPABASE_KEY to the secret key; in an application with signed-in users go on with "
    "store.as_user(access_token)."
)


def key(value: str, url: str, *, has_user: bool) -> Iterator[Finding]:
    """Which kind of key this is, and whether it can be the right one. The key is not shown.

    Args:
        has_user: Whether requests carry a user besides the key.
    """
    token = claims(value)
    role = token.get("role") if token else None
    public = is_public(value)
    kind = f"a legacy {role} key (a JWT)" if role in ("anon", "service_role") else "a publishable key"
    if public and not has_user:
        yield fault("key", f"SUPABASE_KEY is {kind}, and no user is signed in: it may read and write nothing.", _PUBLIC)
    elif public:
        yield ok("key", f"{kind.capitalize()}, and each request carries a user: row level security decides.")
    elif value.startswith("sb_secret_"):
        yield ok("key", "A secret key: the application itself, past row level security. Keep it on servers.")
    elif role == "service_role":
        yield warning("key", "A legacy service_role key (a JWT). Supabase is replacing these by secret keys.", _SECRET)
    elif token is not None:
        who = "a signed-in user's access token" if role == "authenticated" else "a JWT that is no API key"
        yield fault("key", f"SUPABASE_KEY is {who}.", f"{_SECRET} A user's token goes to store.as_user(access_token).")
    elif value.startswith("sbp_"):
        yield fault("key", "SUPABASE_KEY is a personal access token of Supabase's management API.", _SECRET)
    else:
        yield warning("key", "SUPABASE_KEY looks like none of Supabase's keys (sb_secret_... and so on).", _SECRET)
    if token is not None:
        project, host = token.get("ref"), urlsplit(url).hostname or ""
        if project and host.endswith(".supabase.co") and host != f"{project}.supabase.co":
            yield fault("key", f"The key is of project {project}, SUPABASE_URL of another.", _SECRET)
        if isinstance(token.get("exp"), (int, float)) and token["exp"] < time.time():
            yield fault("key", "The key is expired.", _SECRET)


_TRACING: Final = ("LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING", "LANGCHAIN_TRACING")
_LEGACY: Final = (
    "LANGCHAIN_API_KEY",
    "LANGCHAIN_ENDPOINT",
    "LANGCHAIN_PROJECT",
    "LANGCHAIN_TRACING",
    "LANGCHAIN_TRACING_V2",
)


def langsmith(environ: Mapping[str, str], folder: Path) -> Iterator[Finding]:
    """Whether turns will be traced, as LangSmith reads its variables.

    Args:
        folder: Where the application is started: Streamlit's secrets are looked for below it.
    """
    names = [name for name in _TRACING if environ.get(name, "").strip()]  # in the order in which LangSmith asks
    value = environ[names[0]] if names else ""
    has_key = any(environ.get(name, "").strip() for name in ("LANGSMITH_API_KEY", "LANGCHAIN_API_KEY"))
    typed = None if names else _not_text(folder)
    if typed:
        yield fault(
            "langsmith",
            f"Streamlit's secrets have {typed} as a boolean or in a section. Only "
            "root-level text and numbers become environment variables.",
            'In .streamlit/secrets.toml, in front of any [section]: LANGSMITH_TRACING = "true"',
        )
    if value == "true":
        if not has_key:
            yield fault(
                "langsmith",
                f"{names[0]} is on, and there is no LANGSMITH_API_KEY: traces are refused.",
                "Set LANGSMITH_API_KEY (LangSmith: Settings > API Keys), or unset the tracing variable.",
            )
        else:
            yield ok("langsmith", "Turns are traced, and each will know its trace.")
    elif value.strip().lower() in ("true", "1", "yes", "on", "t", "y"):
        yield fault(
            "langsmith",
            f"{names[0]} is not exactly true (in lower case), so nothing is traced.",
            f"export {names[0]}=true",
        )
    elif has_key and not names and not typed:
        yield warning(
            "langsmith",
            "LANGSMITH_API_KEY is set and LANGSMITH_TRACING is not, so nothing is traced.",
            'export LANGSMITH_TRACING=true  (in Streamlit\'s secrets with quotes: "true")',
        )
    elif not typed:
        yield ok("langsmith", "Not in use: turns are stored without a trace.")
    legacy = [name for name in _LEGACY if environ.get(name, "").strip()]
    if legacy:
        yield warning(
            "langsmith",
            f"Legacy names are in use: {', '.join(legacy)}. They are still read.",
            "Rename them to LANGSMITH_TRACING, LANGSMITH_API_KEY, LANGSMITH_PROJECT, LANGSMITH_ENDPOINT.",
        )


def _not_text(folder: Path) -> str | None:
    """The tracing variable in Streamlit's secrets that will not become an environment variable, if there is one."""
    try:
        secrets = tomllib.loads((folder / ".streamlit" / "secrets.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    sections = [value for value in secrets.values() if isinstance(value, dict)]
    for name in _TRACING:
        at_root = secrets.get(name)
        if isinstance(at_root, bool) or (at_root is None and any(name in section for section in sections)):
            return name
    return None
