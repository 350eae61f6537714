"""Settings of a store, checked before they are used."""

from __future__ import annotations

import os
import re
import ssl
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


# What is copied along with a value: blanks, line ends, byte order marks and other signs that nobody sees.
_AROUND: Final = " \t\r\n\v\f\xa0\u200b\u200c\u200d\u2060\ufeff"
_PAIRS: Final = ("''", '""', "``", "\u2018\u2019", "\u201c\u201d", "\u201e\u201c", "\xab\xbb")
_ASSIGNED: Final = re.compile(r"(?:export\s+|set\s+|\$env:)?[A-Z][A-Z0-9_]*(?:\s*=\s*|:\s+)(?=\S)", re.ASCII)
# A line's comment, and what ends a line of code, behind one word or what stands between quotation marks.
_COMMENT: Final = re.compile(r"""(\S+|(["'`]).*\2[;,]?)\s+#.*""", re.DOTALL)


def unwrapped(given: str) -> str:
    """A setting without what was copied along with it: quotation marks, `NAME=`, a comment, blanks, line ends."""
    text = given
    while True:
        before = text
        text = _ASSIGNED.sub("", text.strip(_AROUND), count=1) if _ASSIGNED.match(text.strip(_AROUND)) else text
        text = text.strip(_AROUND).removesuffix("\\n").removesuffix("\\r")
        text = found[1] if (found := _COMMENT.fullmatch(text)) else text
        text = text[:-1] if len(text) > 2 and text[-1] in ";," and text[0] + text[-2] in _PAIRS else text
        if len(text) > 1 and text[0] + text[-1] in (*_PAIRS, "<>"):
            text = text[1:-1]
        if text == before:
            return text


def check_visible(text: str, name: str) -> None:
    """Refuse a setting with a sign in it that nobody sees.

    Raises:
        NotConfigured: It has one.
    """
    if not text.isprintable():
        raise NotConfigured(
            f"{name} has a line break, a tab or another invisible sign in it.", advice="Copy it again, in one line."
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


_PROXIES: Final = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

_CORRECT: Final = (
    "A SOCKS proxy is written socks5://host:port, and needs `pip install 'httpx[socks]'`; an address in NO_PROXY has "
    "no brackets; SSL_CERT_FILE must be a file of certificates. Correct it, or unset it."
)


def _named(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Variables that are set, in either case, with their values. On Windows there is one case, which is seen once."""
    for name, value in list(os.environ.items()):
        if value and name in (name.lower(), name.upper()) and name.upper() in names:
            yield name, value


def _unusable() -> Iterator[str]:
    """The environment's network variables that an HTTP client cannot use."""
    for name, value in _named(_PROXIES):
        try:
            httpx.HTTPTransport(verify=False, proxy=value if "://" in value else f"http://{value}").close()
        except (ValueError, ImportError, httpx.InvalidURL):
            yield name
    for name, value in _named(_CERTIFICATES):
        try:
            by = "capath" if Path(value).is_dir() else "cafile"
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(**{by: value})
        except OSError:
            yield name
    for name, value in _named(("SSLKEYLOGFILE",)):
        try:
            Path(value).open("ab").close()
        except OSError:
            yield name


def network_fault(error: BaseException) -> NotConfigured | None:
    """Why a request cannot be sent, where the environment's network settings are at fault; else None."""
    names = list(_unusable())
    if not names and isinstance(error, httpx.InvalidURL):
        names = [name for name, _ in _named(("NO_PROXY",))]  # which no client reads alone
    if not names:
        return None
    return NotConfigured(
        f"The environment's {' and '.join(names)} cannot be used ({type(error).__name__}).", advice=_CORRECT
    )


@contextmanager
def check_network() -> Iterator[None]:
    """Turn what an HTTP client raises because of the environment's network settings into an error that names them.

    Raises:
        NotConfigured: A proxy or a certificate file that the environment names cannot be used.
    """
    try:
        yield
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        text = f"The environment's network settings cannot be used ({type(error).__name__})."
        raise network_fault(error) or NotConfigured(text, advice=_CORRECT) from error
