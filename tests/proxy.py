"""A TCP proxy on loopback that counts the waits of a client, and harms the connection where it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from langchain_supabase_history import HistoryStore


class Proxy:
    """Forwards to `target`. Attributes may be changed while it runs.

    Attributes:
        trips: How often the direction of the traffic turned from client to server: each is one wait for the network.
        delay: Seconds by which each piece of traffic is held up, each way.
        refuse: New connections are closed at once.
        cut_after: Once so many bytes have passed in the direction `cut_side` ("client" or "server": who sent them), do
            `cut_how`: "reset", "close", or "blackhole" (say nothing any more).
        connections: How many were made.
        stores: The stores behind it that shall not wait long while it is cut.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.trips = 0
        self.delay = 0.0
        self.refuse = False
        self.cut_after: int | None = None
        self.cut_side = "client"
        self.cut_how = "reset"
        self.cuts = 0
        self.connections = 0
        self.stores: list[HistoryStore] = []
        self._passed = {"client": 0, "server": 0}
        self._lock = threading.Lock()
        self._last_side: dict[int, str] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, cut_after: int, side: str, how: str) -> None:
        """Harm the traffic once, after so many further bytes from that side."""
        with self._lock:
            self._passed = {"client": 0, "server": 0}
            self.cut_after, self.cut_side, self.cut_how = cut_after, side, how

    def disarm(self) -> None:
        with self._lock:
            self.cut_after = None

    def passed(self) -> dict[str, int]:
        return dict(self._passed)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                if self.refuse:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                number = self.connections
                for side, source, sink in (("client", client, server), ("server", server, client)):
                    threading.Thread(target=self._pump, args=(number, side, source, sink), daemon=True).start()

    def _pump(self, number: int, side: str, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    if side == "client" and self._last_side.get(number) != "client":
                        self.trips += 1
                    self._last_side[number] = side
                    before = self._passed[side]
                    self._passed[side] += len(data)
                    harm = self.cut_after is not None and side == self.cut_side and self._passed[side] > self.cut_after
                    if harm:
                        data = data[: max(0, int(self.cut_after or 0) - before)]
                        how, self.cut_after = self.cut_how, None
                        self.cuts += 1
                if self.delay:
                    time.sleep(self.delay)
                if data:
                    sink.sendall(data)
                if harm:
                    if how == "blackhole":
                        return  # both ends stay open, and nothing more is said this way
                    if how == "reset":
                        for sock in (source, sink):
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    break
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                sock.close()

    def drop_all(self) -> None:
        """End every connection there is."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                sock.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_all()


@contextlib.contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    made = Proxy(target)
    try:
        yield made
    finally:
        made.close()
