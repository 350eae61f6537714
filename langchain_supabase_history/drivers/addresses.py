"""A project's address and key, read in the forms in which people have them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from ..core.settings import check_placeholders, check_visible, unwrapped
from ..errors import NotConfigured

ADDRESS: Final = "SUPABASE_URL is like https://<project>.supabase.co."
UNTRUSTED: Final = (
    "The certificate of SUPABASE_URL's host is not trusted here. Behind a proxy that reads along, SSL_CERT_FILE must "
    "name its certificate; else correct this machine's clock, or the address."
)
_DASHBOARD: Final = ("supabase.com", "www.supabase.com", "app.supabase.com")


def read_url(given: object, name: str = "SUPABASE_URL") -> str:
    """Read a project's web address; what was copied along with it is removed.

    Args:
        name: What it is called where it is refused.

    Raises:
        NotConfigured: It is none.
    """
    check_placeholders(given, name)
    text = unwrapped(given) if isinstance(given, str) else ""
    check_visible(text, name)
    if re.match(r"(?i)(?:jdbc:)?postgres(?:ql)?(?:\+\w+)?://", text):
        raise NotConfigured(
            f"{name} holds a connection string. It is for the project's web address.",
            advice="Put the connection string into SUPABASE_DB_URL, or give it to from_postgres.",
        )
    if not re.match(r"(?i)https?://", text):
        raise NotConfigured(f"{name} is no web address.", advice=ADDRESS)
    try:
        host = urlsplit(text).hostname or ""
    except ValueError:
        raise NotConfigured(f"{name} is no web address.", advice=ADDRESS) from None
    if host in _DASHBOARD:
        raise NotConfigured(
            f"{name} is a page of Supabase's dashboard, not the project's address.",
            advice="Set SUPABASE_URL to https://<project>.supabase.co (Supabase: Settings > Data API).",
        )
    return text.rstrip("/").removesuffix("/rest/v1")


def read_key(given: object, name: str = "SUPABASE_KEY") -> str:
    """Read an API key; what was copied along with it is removed.

    Args:
        name: What it is called where it is refused.

    Raises:
        NotConfigured: It cannot be one.
    """
    check_placeholders(given, name)
    text = unwrapped(given) if isinstance(given, str) else ""
    if not text or not text.isascii() or any(c.isspace() for c in text):
        raise NotConfigured(
            f"{name} cannot be an API key.",
            advice="It is one of the project's keys (Supabase: Settings > API Keys): a secret or a publishable one.",
        )
    return text
