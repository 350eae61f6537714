"""A LangSmith to test against: the endpoints that the SDK calls, on loopback, keeping what it is sent.

It answers `/info` so that the SDK sends plain JSON to `/runs/batch`, and reads back what it was given through the
endpoints that the SDK's successors of `list_runs` and the others use. `behave` makes it ail.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from langchain_supabase_history import HistoryStore
from langchain_supabase_history.langsmith.client import LangSmith

PROJECT = "tests"
TENANT = "00000000-0000-0000-0000-00000000cafe"


@dataclass
class LangSmithServer:
    """What the server has been told, and how it answers.

    Attributes:
        runs: By id, post and patch merged.
        feedback: By id.
        requests: (method, path, body) of each request.
        behave: "well", "429" (with Retry-After), "500", "garbage", or seconds to wait before each answer.
        fail_first: So many of the next requests to `/api/v2/` and `/feedback` get a 429 with `retry-after: 0.05`.
    """

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    feedback: dict[str, dict[str, Any]] = field(default_factory=dict)
    projects: dict[str, str] = field(default_factory=lambda: {PROJECT: str(uuid.uuid5(uuid.NAMESPACE_DNS, PROJECT))})
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    behave: str | float = "well"
    fail_first: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    # --- what tests ask

    def roots(self, session_id: str | None = None) -> list[dict[str, Any]]:
        """Root runs, of one session, in the order in which they began."""
        found = [run for run in self.runs.values() if not run.get("parent_run_id")]
        if session_id is not None:
            found = [run for run in found if metadata(run).get("session_id") == session_id]
        return sorted(found, key=lambda run: run["dotted_order"])

    def usage(self, trace_id: str) -> dict[str, int]:
        """The sums over the chat-model runs of a trace."""
        sums: dict[str, int] = {}
        for run in self.runs.values():
            if run["trace_id"] == trace_id and run["run_type"] == "llm":
                for name, count in (metadata(run).get("usage_metadata") or {}).items():
                    if isinstance(count, int):
                        sums[name] = sums.get(name, 0) + count
        return sums

    def paths(self, method: str) -> list[str]:
        return [path for m, path, _ in self.requests if m == method]

    # --- what the SDK asks

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        with self.lock:
            self.requests.append((method, path, body))
            path = path.removeprefix("/api/v1")
            if path == "/info":
                config = {
                    "use_multipart_endpoint": False,
                    "size_limit": 100,
                    "size_limit_bytes": 20_971_520,
                    "scale_up_nthreads_limit": 1,
                    "scale_up_qsize_trigger": 1000,
                }
                return 200, {"version": "0.16.20", "batch_ingest_config": config}
            if path == "/runs/batch" and method == "POST":
                for run in [*body.get("post", []), *body.get("patch", [])]:
                    self.take(run)
                return 202, {}
            if path == "/sessions" and method == "GET":
                name = query.get("name", [PROJECT])[0]
                return 200, [self.project(name)] if name in self.projects else []
            if path == "/api/v2/runs/query":
                return self.query_runs(body)
            if path.startswith("/api/v2/runs/") and path.endswith("/url"):
                return self.run_url(path.split("/")[4], query)
            if path == "/feedback" and method == "POST":
                return self.take_feedback(body)
            if path == "/feedback" and method == "GET":
                runs = set(query.get("run", []))
                offset, limit = int(query["offset"][0]), int(query["limit"][0])
                found = [item for item in self.feedback.values() if item["run_id"] in runs]
                return 200, found[offset : offset + limit]
            if path.startswith("/feedback/") and method == "PATCH":
                known = self.feedback.get(path.split("/")[2])
                if known is None:
                    return 404, {"detail": "Feedback not found"}
                known.update(body, modified_at=now())
                return 200, known
            return 404, {"detail": f"{method} {path} is not served"}

    def project(self, name: str) -> dict[str, Any]:
        return {
            "id": self.projects[name],
            "name": name,
            "tenant_id": TENANT,
            "start_time": now(),
            "reference_dataset_id": None,
            "run_count": len(self.runs),
        }

    def take(self, run: dict[str, Any]) -> None:
        known = self.runs.setdefault(run["id"], {})
        extra = {**known.get("extra", {}), **(run.get("extra") or {})}
        known.update({name: value for name, value in run.items() if value is not None} | {"extra": extra})

    def take_feedback(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["id"] in self.feedback:
            return 409, {"detail": "Feedback exists"}
        if not body.get("session_id"):
            return 422, {"detail": "session_id is required"}
        self.feedback[body["id"]] = {"trace_id": body["run_id"], "created_at": now(), "modified_at": now(), **body}
        return 200, body

    def run_url(self, run_id: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if run_id not in self.runs:
            return 404, {"detail": "Run not found"}
        project = query["project_id"][0]
        return 200, {"url": f"https://smith.example/o/{TENANT}/projects/p/{project}/r/{run_id}"}

    def query_runs(self, body: dict[str, Any]) -> tuple[int, Any]:
        names = {id: name for name, id in self.projects.items()}
        projects = {names.get(id) for id in body["project_ids"]}
        found = [
            run
            for run in self.runs.values()
            if run.get("session_name", PROJECT) in projects
            and (not body.get("is_root") or not run.get("parent_run_id"))
            and ("ids" not in body or run["id"] in body["ids"])
            and iso(run["start_time"])
            >= iso(body.get("min_start_time") or now())  # LangSmith's default: almost nothing
            and iso(run["start_time"]) <= iso(body.get("max_start_time") or "9999")
        ]
        found.sort(key=lambda run: str(run["dotted_order"]), reverse=True)  # the newest first, as LangSmith does
        start, size = int(body.get("cursor") or 0), int(body.get("page_size") or 100)
        page = [self.selected(run, body.get("selects") or ["ID"]) for run in found[start : start + size]]
        following = str(start + size) if start + size < len(found) else None
        return 200, {"items": page, "next_cursor": following}

    def selected(self, run: dict[str, Any], selects: list[str]) -> dict[str, Any]:
        usage = self.usage(run["trace_id"]) if not run.get("parent_run_id") else {}
        given: dict[str, Any] = {
            "status": "ERROR" if run.get("error") else "SUCCESS" if run.get("end_time") else "PENDING",
            "metadata": metadata(run),
            "thread_id": None,
            "prompt_tokens": usage.get("input_tokens", 0),
            "completion_tokens": usage.get("output_tokens", 0),
            "total_tokens": usage.get("total_tokens", 0),
            "feedback_stats": self.feedback_stats(run["id"]),
            "error_preview": (run.get("error") or "")[:100] or None,
            **run,
        }
        return {name.lower(): given.get(name.lower()) for name in selects}

    def feedback_stats(self, run_id: str) -> dict[str, Any]:
        stats: dict[str, Any] = {}
        for item in self.feedback.values():
            if item["run_id"] == run_id:
                stats[item["key"]] = {"n": 1, "avg": item.get("score"), "values": {}}
        return stats


def metadata(run: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (run.get("extra") or {}).get("metadata") or {}
    return found


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "+00:00"


def iso(text: str) -> str:
    return text.replace("Z", "")[:19]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of an answer go out apart: each would wait 40 ms for the other
    server: _Server

    def _serve(self) -> None:
        smith = self.server.smith
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        url = urlsplit(self.path)
        limited = smith.fail_first > 0 and url.path.startswith(("/api/v2/", "/feedback"))
        if isinstance(smith.behave, float):
            self.server.stopped.wait(smith.behave)
        if smith.behave == "429" or limited:
            smith.fail_first -= limited
            smith.requests.append((self.command, url.path, 429))
            self._reply(429, b'{"detail": "slow down"}', {"retry-after": "0.05"})
        elif smith.behave == "500":
            self._reply(500, b"it broke", {})
        elif smith.behave == "garbage":
            self._reply(200, b"<html>a captive portal</html>", {})
        else:
            status, answer = smith.answer(self.command, url.path, parse_qs(url.query), json.loads(body or b"null"))
            self._reply(status, json.dumps(answer).encode(), {})

    do_GET = do_POST = do_PATCH = _serve  # noqa: N815

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        with contextlib.suppress(OSError):  # a client that gave up waiting
            self.send_response(status)
            for name, value in {
                "content-type": "application/json",
                "content-length": str(len(body)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    smith: LangSmithServer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stopped = threading.Event()
        self._connections: set[socket.socket] = set()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request_thread(request, client_address)
        self._connections.discard(request)

    def server_close(self) -> None:
        """End the connections that clients keep open, too: each holds a thread."""
        super().server_close()
        self.stopped.set()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def environment(url: str, tracing: bool = True) -> dict[str, str]:
    """What an application sets."""
    return {
        "LANGSMITH_TRACING": str(tracing).lower(),
        "LANGSMITH_ENDPOINT": url,
        "LANGSMITH_API_KEY": "lsv2_tests",
        "LANGSMITH_PROJECT": PROJECT,
    }


def flush(smith: LangSmithServer) -> None:
    """Wait until the tracer has sent all it has, and the server has taken it in."""
    from langchain_core.tracers.langchain import wait_for_all_tracers
    from langsmith.run_trees import get_cached_client

    wait_for_all_tracers()
    get_cached_client().flush()
    end, seen = time.monotonic() + 10, -1
    while time.monotonic() < end:  # the last request may still be on its way when the queue is empty
        if seen == len(smith.requests) and all(run.get("end_time") for run in smith.runs.values()):
            return
        seen = len(smith.requests)
        time.sleep(0.03)


def forget_traces() -> None:
    """Drop what the tracer could not send, which `tracing` would wait for at its end."""
    from langsmith import run_trees

    if run_trees._CLIENT is not None:
        run_trees._CLIENT.close(timeout=0)
        run_trees._CLIENT = None


@contextlib.contextmanager
def tracing(url: str, on: bool = True) -> Iterator[None]:
    """This process traces to a server, with a client of its own."""
    from langsmith import run_trees, utils

    def forget() -> None:
        utils.get_env_var.cache_clear()  # type: ignore[attr-defined]
        utils.get_tracer_project.cache_clear()
        forget_traces()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(url, on).items():
            patch.setenv(name, value)
        forget()
        try:
            yield
            if run_trees._CLIENT is not None:
                run_trees._CLIENT.close(timeout=2)
        finally:
            forget()
    forget()


@pytest.fixture(name="smith")
def smith_fixture() -> Iterator[LangSmithServer]:
    """A LangSmith of the test's own, to which everything traces."""
    with langsmith_server() as server, tracing(server.url):
        yield server


@contextlib.contextmanager
def langsmith_server(port: int = 0) -> Iterator[LangSmithServer]:
    server = _Server(("127.0.0.1", port), _Handler)
    smith = LangSmithServer(f"http://127.0.0.1:{server.server_port}")
    server.smith = smith
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield smith
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_langsmith(store: HistoryStore, smith: LangSmith) -> HistoryStore:
    """A view of a store that sends feedback to another LangSmith, and asks it."""
    view = store.within(feedback=smith)
    view.langsmith = smith
    return view
