"""Settings of a store, checked before they are used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from ..errors import InvalidInput, InvalidSession, NotConfigured

_SCHEMA: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_PLACEHOLDER: Final = re.compile(r"<(?:project|password|region|key)>|\[YOUR-[A-Z-]+\]")


def check_schema(schema: object) -> str:
    """A schema name that can be written into SQL.

    Raises:
        InvalidSession: It is not a plain identifier of at most 63 characters.
    """
    if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
        raise InvalidSession("schema must be a plain SQL identifier: letters, digits and _, at most 63 characters.")
    return schema


def check_placeholders(text: object, name: str) -> None:
    """Refuse a setting that was copied and not filled in.

    Raises:
        NotConfigured: It still has a placeholder in it.
    """
    if isinstance(text, str) and (found := _PLACEHOLDER.search(text)):
        raise NotConfigured(
            f"{name} still says {found[0]}.", advice="Put the value that it stands for there, without the brackets."
        )


def check_limit(value: Any, name: str, kind: Any, low: float, of: str = "") -> Any:
    """A number of a kind, from `low` on.

    Raises:
        InvalidInput: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value < 2**31:
        raise InvalidInput(f"{name} must be a number{of} from {low:g} on.")
    return value


def as_path(value: Any, name: str) -> Path:
    """An absolute path.

    Raises:
        InvalidInput: It is no path.
    """
    try:
        path = Path(value).expanduser().resolve()
        os.fsencode(path)  # refuses lone surrogates that stand for no byte of a file name
    except (TypeError, ValueError, RuntimeError):  # no path, a NUL in it, no home to put in the place of ~
        raise InvalidInput(f"{name} must be the path of a file or folder.") from None
    return path


_NETWORK_VARIABLES: Final = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@contextmanager
def check_network() -> Iterator[None]:
    """Turn what an HTTP client raises because of the environment's network settings into an error that names them.

    Raises:
        NotConfigured: A proxy or a certificate file that the environment names cannot be used.
    """
    try:
        yield
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        names = [name for name in _NETWORK_VARIABLES if os.environ.get(name) or os.environ.get(name.lower())]
        about_files = isinstance(error, OSError)
        named = [name for name in names if name.startswith("SSL") == about_files] or names
        raise NotConfigured(
            f"The environment's {' or '.join(named) or 'network settings'} cannot be used: {type(error).__name__}.",
            advice="A SOCKS proxy is written socks5://host:port, and needs `pip install 'httpx[socks]'`; an address in "
            "NO_PROXY has no brackets; SSL_CERT_FILE must be a file that exists. Correct it, or unset it.",
        ) from error
