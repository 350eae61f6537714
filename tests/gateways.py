"""Servers that answer as poolers and gateways do, which exist only online: each a few lines on loopback."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def _receive(conn: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = conn.recv(count - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _fatal(code: str, words: str) -> bytes:
    fields = [b"SFATAL", b"VFATAL", b"C" + code.encode(), b"M" + words.encode()]
    return _message(b"E", b"\0".join(fields) + b"\0\0")


class Pooler:
    """Speaks PostgreSQL's protocol up to the login, which it refuses with words of its own; then it passes on.

    Args:
        words: What it says.
        code: Its SQLSTATE.
        after_password: Whether it asks for a password first.
        refusals: How many logins it refuses; None for all.
        target: The port of the server that the others go on to.
    """

    def __init__(
        self, words: str, code: str = "XX000", *, after_password: bool, refusals: int | None = None, target: int = 0
    ) -> None:
        self._words, self._code, self._after_password = words, code, after_password
        self._refusals, self._target = refusals, target
        self.logins = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self._open: list[socket.socket] = []

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self._listener.accept()
                self._open.append(conn)
                thread = threading.Thread(target=self._serve, args=(conn,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, conn: socket.socket) -> None:
        with contextlib.suppress(OSError, ConnectionError), conn:
            startup = self._startup(conn)
            self.logins += 1
            if self._refusals is not None and self.logins > self._refusals:
                self._pass_on(conn, startup)
                return
            if self._after_password:
                conn.sendall(_message(b"R", struct.pack("!i", 3)))
                _receive(conn, struct.unpack("!i", _receive(conn, 5)[1:])[0] - 4)
            conn.sendall(_fatal(self._code, self._words))

    @staticmethod
    def _startup(conn: socket.socket) -> bytes:
        while True:
            head = _receive(conn, 8)
            length, code = struct.unpack("!ii", head)
            if code not in (80877103, 80877104):  # TLS or GSS asked for: not here
                return head + _receive(conn, length - 8)
            conn.sendall(b"N")

    def _pass_on(self, conn: socket.socket, startup: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            self._open.append(server)
            server.sendall(startup)
            back = threading.Thread(target=self._pipe, args=(server, conn), daemon=True)
            back.start()
            self._pipe(conn, server)
            back.join(5)

    @staticmethod
    def _pipe(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for conn in self._open:
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)
            conn.close()
        for thread in self._threads:
            thread.join(5)


@contextlib.contextmanager
def pooler(words: str, code: str = "XX000", **options: Any) -> Iterator[Pooler]:
    server = Pooler(words, code, **options)
    try:
        yield server
    finally:
        server.close()


Answer = tuple[int, Any]  # status and body


@contextlib.contextmanager
def gateway(target: str, answer: Callable[[int], Answer | None]) -> Iterator[tuple[str, list[str]]]:
    """A gateway in front of a Data API: `answer` says what it answers to the n-th request itself; None passes it on.

    Gives its URL, and the paths that it was asked for.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(self.path)
            own = answer(len(asked))
            if own is None:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
                reply = httpx.post(target + urlsplit(self.path).path, content=body, headers=headers, timeout=20)
                status, content = reply.status_code, reply.content
            else:
                status, content = own[0], own[1] if isinstance(own[1], bytes) else json.dumps(own[1]).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def certificate(folder: Path, name: str) -> Path:
    """A certificate that only itself vouches for, with its key: the file of both."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(made.public_bytes(pem) + private)
    return file


@contextlib.contextmanager
def impostor(file: Path) -> Iterator[int]:
    """A server, of HTTPS or of PostgreSQL, that shows this certificate and gets no further: gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:  # closed
                return
            with conn, contextlib.suppress(OSError):
                if conn.recv(1, socket.MSG_PEEK) == b"\0":  # PostgreSQL's request for TLS
                    _receive(conn, 8)
                    conn.sendall(b"S")
                with context.wrap_socket(conn, server_side=True) as shown:
                    shown.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
