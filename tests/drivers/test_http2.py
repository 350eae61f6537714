"""HTTP/2, as supabase's own clients speak it: connections and streams that a gateway ends at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame, RstStreamFrame
from langchain_core.messages import AIMessage, HumanMessage
from supabase import AsyncClient, AsyncClientOptions, Client, ClientOptions

from langchain_supabase_history import HistoryStore
from tests import servers

QA = [HumanMessage("q"), AIMessage("a")]

INTERNAL_ERROR, REFUSED, ENHANCE_YOUR_CALM = 2, 7, 11  # codes of the protocol


class Pieces:
    """The parts of an answer to one request, as bytes for the wire."""

    def __init__(self, conn: H2Connection, stream: int, reply: Callable[[], httpx.Response]) -> None:
        self._conn, self._stream, self._reply = conn, stream, reply

    def answer(self) -> tuple[bytes, bytes]:
        """What the Data API answers: the headers' frame, and the body's."""
        reply = self._reply()
        headers = [(":status", str(reply.status_code)), ("content-type", "application/json")]
        self._conn.send_headers(self._stream, headers)
        head = self._conn.data_to_send()
        self._conn.send_data(self._stream, reply.content, end_stream=True)
        return head, self._conn.data_to_send()

    def goaway(self, last: int | None = None, code: int = 0) -> bytes:
        """The connection ends; what came up to the last stream was seen to, or so the server says."""
        return GoAwayFrame(0, last_stream_id=self._stream if last is None else last, error_code=code).serialize()

    def reset(self, code: int = INTERNAL_ERROR) -> bytes:
        """This stream ends."""
        return RstStreamFrame(self._stream, error_code=code).serialize()


# What is sent for a request, and whether the connection is closed then.
Sent = tuple[list[bytes], bool]


def refused(goes: Pieces) -> Sent:
    return [goes.goaway(0)], True


def refused_but_open(goes: Pieces) -> Sent:
    return [goes.goaway(0, ENHANCE_YOUR_CALM)], False


def ended_before_headers(goes: Pieces) -> Sent:
    goes.answer()
    return [goes.goaway()], True


def ended_in_front_of_the_answer(goes: Pieces) -> Sent:
    head, body = goes.answer()
    return [goes.goaway() + head + body], False


def ended_after_headers(goes: Pieces) -> Sent:
    head, _ = goes.answer()
    return [head, goes.goaway(code=INTERNAL_ERROR)], True


def ended_between_headers_and_body(goes: Pieces) -> Sent:
    head, body = goes.answer()
    return [head, goes.goaway() + body], False


def ended_behind_the_answer(goes: Pieces) -> Sent:
    head, body = goes.answer()
    return [head + body + goes.goaway()], True


def reset_before_headers(goes: Pieces) -> Sent:
    goes.answer()
    return [goes.reset()], False


def reset_unseen(goes: Pieces) -> Sent:
    return [goes.reset(REFUSED)], False


def reset_after_headers(goes: Pieces) -> Sent:
    head, _ = goes.answer()
    return [head, goes.reset()], False


def cut_before_headers(goes: Pieces) -> Sent:
    goes.answer()
    return [], True


def cut_after_headers(goes: Pieces) -> Sent:
    head, body = goes.answer()
    return [head + body[:12]], True


def no_http2(goes: Pieces) -> Sent:
    return [b"HTTP/1.1 502 Bad Gateway\r\n\r\n"], True


FAULTS: Final = [
    *(refused, refused_but_open, ended_before_headers, ended_in_front_of_the_answer, ended_after_headers),
    *(ended_between_headers_and_body, ended_behind_the_answer, reset_before_headers, reset_unseen),
    *(reset_after_headers, cut_before_headers, cut_after_headers, no_http2),
]


class Gateway:
    """Speaks HTTP/2 in front of a Data API, without TLS; the first requests it answers with a fault."""

    def __init__(self, target: str, fault: Callable[[Pieces], Sent], faults: int) -> None:
        self._target, self._fault, self._left = target, fault, faults
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self._listener.accept()
                self._open.append(conn)
                self._threads.append(threading.Thread(target=self._serve, args=(conn,), daemon=True))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        conn = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        conn.initiate_connection()
        headers: dict[int, dict[str, str]] = {}
        bodies: dict[int, bytes] = {}
        with contextlib.suppress(OSError, ProtocolError), sock:
            sock.sendall(conn.data_to_send())
            while data := sock.recv(65536):
                for event in conn.receive_data(data):
                    if isinstance(event, RequestReceived):
                        headers[event.stream_id] = {str(k): str(v) for k, v in event.headers}
                        bodies[event.stream_id] = b""
                    elif isinstance(event, DataReceived):
                        bodies[event.stream_id] += event.data
                        conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, StreamEnded):
                        sock.sendall(conn.data_to_send())
                        if self._answer(sock, conn, event.stream_id, headers, bodies):
                            return
                sock.sendall(conn.data_to_send())

    def _answer(self, sock: socket.socket, conn: H2Connection, stream: int, headers: Any, bodies: Any) -> bool:
        """Answer a request, and say whether the connection ends."""
        asked = headers[stream]
        with self._lock:
            self.asked.append(asked[":path"])
            self._left -= 1
            is_fault = self._left >= 0

        def reply() -> httpx.Response:
            passed = {name: value for name, value in asked.items() if not name.startswith(":")}
            return httpx.post(self._target + asked[":path"], content=bodies[stream], headers=passed, timeout=20)

        pieces = Pieces(conn, stream, reply)
        sent, ends = self._fault(pieces) if is_fault else ([b"".join(pieces.answer())], False)
        for part in sent:
            sock.sendall(part)
        return ends

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
def http2_gateway(target: str, fault: Callable[[Pieces], Sent], faults: int = 1) -> Iterator[Gateway]:
    server = Gateway(target, fault, faults)
    try:
        yield server
    finally:
        server.close()


def own_client(url: str, http: httpx.Client) -> HistoryStore:
    return HistoryStore.from_client(Client(url, servers.SECRET_KEY, ClientOptions(httpx_client=http)))


def own_async_client(url: str, http: httpx.AsyncClient) -> HistoryStore:
    return HistoryStore.from_client(
        async_client=AsyncClient(url, servers.SECRET_KEY, AsyncClientOptions(httpx_client=http))
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_http2_ends_is_stored_once(data_api: Any, session: str, fault: Callable[[Pieces], Sent]) -> None:
    with http2_gateway(data_api.url, fault) as server, httpx.Client(http1=False, http2=True) as http:
        store = own_client(server.url, http)
        assert len(store.append(session, QA)) == 2
        assert store.load(session) == QA
    with http2_gateway(data_api.url, fault, 2) as server, httpx.Client(http1=False, http2=True) as http:
        assert own_client(server.url, http).load(session) == QA


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_http2_ends_is_stored_once_async(data_api: Any, session: str, fault: Callable[[Pieces], Sent]) -> None:
    async def work() -> None:
        async with httpx.AsyncClient(http1=False, http2=True) as http:
            store = own_async_client(server.url, http)
            assert len(await store.aappend(session, QA)) == 2
            assert await store.aload(session) == QA

    with http2_gateway(data_api.url, fault, 2) as server:
        asyncio.run(work())
