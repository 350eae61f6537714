"""What the environment says of the database, and which kind of key a key is. No network, no secret in any text."""

from __future__ import annotations

import base64
import binascii
import contextlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

NAMES: Final = ("SUPABASE_DB_URL", "SUPABASE_URL", "SUPABASE_KEY")
_BOTH_WAYS: Final = (
    "Set SUPABASE_DB_URL (Supabase: Connect > Connection string), or SUPABASE_URL and "
    "SUPABASE_KEY (Settings > API Keys)."
)

# What other tools and templates call the same things; keys that are public come last.
_OTHER_NAMES: Final = {
    "SUPABASE_DB_URL": ("DATABASE_URL", "POSTGRES_URL", "SUPABASE_DATABASE_URL", "DIRECT_URL"),
    "SUPABASE_URL": ("NEXT_PUBLIC_SUPABASE_URL", "VITE_SUPABASE_URL", "SUPABASE_PROJECT_URL"),
    "SUPABASE_KEY": (
        "SUPABASE_SECRET_KEY",
        "SUPABASE_SERVICE_ROLE_KEY",
        "SUPABASE_SERVICE_KEY",
        "SUPABASE_API_KEY",
        "SUPABASE_ANON_KEY",
        "SUPABASE_PUBLISHABLE_KEY",
        "NEXT_PUBLIC_SUPABASE_ANON_KEY",
        "NEXT_PUBLIC_SUPABASE_PUBLISHABLE_KEY",
        "VITE_SUPABASE_ANON_KEY",
        "VITE_SUPABASE_PUBLISHABLE_KEY",
    ),
}


@dataclass(frozen=True, slots=True)
class Missing:
    """Why no database can be chosen, and what to set."""

    says: str
    fix: str


def find_missing(
    given: Mapping[str, str], environ: Mapping[str, str], secrets: Mapping[str, Any] | None = None
) -> Missing | None:
    """What is missing to choose a database by; None where nothing is.

    Args:
        given: The settings in use, by variable name.
        environ: The environment, in which the same may be set under another name.
        secrets: Streamlit's secrets, in which the same may be in a section; read where something is missing.
    """
    found = [name for name in NAMES if given.get(name)]
    if "SUPABASE_DB_URL" in found or len(found) == 2:
        return None
    missing = "SUPABASE_KEY" if found == ["SUPABASE_URL"] else "SUPABASE_URL" if found else None
    says = f"{found[0]} is set, {missing} is not." if missing else "No database is configured."
    if section := _section_of(streamlit_secrets() if secrets is None else secrets):
        says = f"{says} Streamlit's secrets have [{section}], and nothing in a section becomes an environment variable."
        return Missing(
            says,
            'In secrets.toml, write in front of any [section]: SUPABASE_URL = "..." and SUPABASE_KEY = "..." '
            "(or SUPABASE_DB_URL).",
        )
    for name in [missing] if missing else NAMES:
        other = next((other for other in _OTHER_NAMES[name] if environ.get(other)), None)
        if other is not None:
            says = f"{says} {other} is set, which this library does not read."
            return Missing(says, _instead_of(other, name, environ[other]))
    return Missing(says, f"Set {missing} too." if missing else _BOTH_WAYS)


def streamlit_secrets() -> Mapping[str, Any]:
    """Streamlit's secrets, from the files that it reads: the application's, and the user's. Never raises."""
    secrets: dict[str, Any] = {}
    for folder in (Path.home, Path.cwd):
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # RuntimeError: no home
            secrets |= tomllib.loads((folder() / ".streamlit" / "secrets.toml").read_text("utf-8"))
    return secrets


def _section_of(secrets: Mapping[str, Any], path: str = "") -> str | None:
    """The section of secrets that says which database: `connections.supabase`, say."""
    for name, value in secrets.items():
        if isinstance(value, Mapping):
            inner = f"{path}.{name}" if path else name
            ours = any(key in value for key in NAMES) or (name.lower() == "supabase" and "url" in value)
            if found := inner if ours else _section_of(value, inner):
                return found
    return None


def _instead_of(other: str, name: str, value: str) -> str:
    if name == "SUPABASE_KEY" and ("ANON" in other or "PUBLISHABLE" in other or is_public(value)):
        return (
            f"{other} is a public key, which alone may read nothing. On a server set SUPABASE_KEY to the secret key "
            "(Supabase: Settings > API Keys)."
        )
    return f"Set {name} to what {other} holds."


def claims(token: str) -> dict[str, Any] | None:
    """A JWT's claims, not verified; None for what is no JWT."""
    if token.count(".") != 2:
        return None
    try:
        part = token.split(".")[1]
        found = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error):
        return None
    return found if isinstance(found, dict) else None


def is_public(value: str) -> bool:
    """Whether this is a key that anybody may have: a publishable one, or the legacy anon one."""
    return value.startswith("sb_publishable_") or (claims(value) or {}).get("role") == "anon"
