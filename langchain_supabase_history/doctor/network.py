"""The doctor's checks of the way to a server: its name, the route, the port, and TLS, each reported by itself."""

from __future__ import annotations

import os
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import httpx

from ..core.settings import check_network
from ..errors import HistoryError, NotConfigured
from .environment import Finding, fault, ok, warning

_PORTS: Final = "5432 is the database or the session pooler, 6543 the transaction pooler."
_RENAMED: Final = "A deleted or long paused project loses its name, and a machine without a network knows none."


def reach(host: str, port: int, sslmode: str, seconds: float) -> Finding:
    """How a PostgreSQL server at this host and port answers, whether its TLS is what `sslmode` wants.

    Args:
        seconds: How long to wait for it.
    """
    at = f"{host}:{port}"
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return fault(
            "network",
            f"The host name {host} is not known.",
            f"Copy the connection string anew (Supabase: Connect). {_RENAMED}",
        )
    # Every machine can reach itself; elsewhere, many hosts have no IPv6.
    only_ipv6 = all(family == socket.AF_INET6 and sockaddr[0] != "::1" for family, *_, sockaddr in addresses)
    problem: OSError | None = None
    for *_, sockaddr in addresses:
        try:
            sock = socket.create_connection((str(sockaddr[0]), port), timeout=seconds)
        except OSError as error:
            problem = error
            continue
        with sock:
            try:
                sock.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")  # PostgreSQL's SSLRequest; the answer is S or N
                return _tls(at, sock.recv(1), sslmode, only_ipv6)
            except OSError:
                return fault(
                    "network",
                    f"{at} takes the connection, and does not answer as PostgreSQL within {seconds:g} s.",
                    f"Check host and port ({_PORTS}), and that the server is not overloaded or far away.",
                )
    if isinstance(problem, ConnectionRefusedError):
        return fault("network", f"Nothing listens at {at}.", f"Check the port: {_PORTS}")
    if only_ipv6:
        return fault(
            "network",
            f"{host} has an IPv6 address only, and this machine has no way to it.",
            "Use the session pooler's connection string (Supabase: Connect > Session pooler), which has IPv4.",
        )
    return fault(
        "network",
        f"{at} does not answer within {seconds:g} s.",
        "Check that the project is not paused, and that no firewall or network restriction "
        "(Supabase: Settings > Database) is in between.",
    )


def _tls(at: str, answer: bytes, sslmode: str, only_ipv6: bool) -> Finding:
    if not answer:
        return fault(
            "network",
            f"{at} takes the connection and closes it at once.",
            f"Check host and port ({_PORTS}), and that the server is up.",
        )
    if answer not in (b"S", b"N"):
        return fault("network", f"What listens at {at} is no PostgreSQL.", f"Check host and port: {_PORTS}")
    if answer == b"N" and sslmode in ("require", "verify-ca", "verify-full"):
        return fault(
            "tls",
            f"TLS is required (sslmode={sslmode}), and the server at {at} offers none.",
            "Switch TLS on in the server (ssl = on). Only where the network itself is private: add "
            "sslmode=disable to the connection string.",
        )
    if only_ipv6:
        return warning(
            "network",
            f"{at} answers here, but has an IPv6 address only: not every host can reach it.",
            "For Streamlit Cloud and other IPv4 hosts use the session pooler's connection string.",
        )
    encrypted = answer == b"S" and sslmode not in ("disable", "allow")
    return ok("network", f"{at} answers, {'with' if encrypted else 'without'} TLS.")


def client_settings() -> Iterator[Finding]:
    """Variables of the environment that an HTTP client cannot use. Says nothing where all is well."""
    try:
        with check_network():
            httpx.Client().close()
    except NotConfigured as error:
        yield fault("network", error.says, error.advice)


def _proxy_for(url: str) -> str | None:
    """The variable that names a proxy for this address, in the case in which it is set."""
    address = urlsplit(url)
    proxies = urllib.request.getproxies()
    kind = next((kind for kind in (address.scheme, "all") if proxies.get(kind)), None)
    if kind is None or urllib.request.proxy_bypass(address.hostname or ""):
        return None
    return f"{kind}_proxy" if os.environ.get(f"{kind}_proxy") else f"{kind}_proxy".upper()


def unreachable(error: HistoryError, url: str) -> Finding:
    """Why the Data API cannot be reached, by the kind of the innermost error."""
    host = urlsplit(url).netloc
    proxy = _proxy_for(url)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.ProxyError) or (proxy and isinstance(cause, (socket.gaierror, ConnectionError))):
            return fault(
                "network",
                f"The proxy that {proxy or 'the environment'} names does not take requests to {host}.",
                "Correct the variable or unset it, or name the host in NO_PROXY where it is reached without a proxy.",
            )
        if isinstance(cause, socket.gaierror):
            return fault(
                "network",
                f"The host name {host} is not known.",
                f"Copy SUPABASE_URL anew (Supabase: Settings > Data API). {_RENAMED}",
            )
        if isinstance(cause, ssl.SSLError):
            return fault(
                "tls",
                f"No TLS connection to {host} could be made ({cause.reason or type(cause).__name__}).",
                "Check that SUPABASE_URL begins with https:// (http:// for a local one), and this machine's "
                "clock and certificates.",
            )
        if isinstance(cause, ConnectionRefusedError):
            return fault("network", f"Nothing listens at {host}.", "Check SUPABASE_URL, its port included.")
        cause = cause.__cause__ or cause.__context__
    return fault("network", error.says, error.advice)
