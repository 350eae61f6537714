"""What the tests of the doctor share: broken installations are made on real servers, and fixed as it says."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict

import psycopg

from langchain_supabase_history import HistoryStore
from langchain_supabase_history.doctor.diagnose import Finding, diagnose
from langchain_supabase_history.migrations import migrations
from tests import servers

PASSWORD = "hunter2-the-password"
LATEST = migrations()[-1].version


def examine(store: HistoryStore | None = None, **options: object) -> list[Finding]:
    """Diagnose in an empty environment, and see to it that nothing secret is shown."""
    options.setdefault("environ", {})
    found = diagnose(store, **options)  # type: ignore[arg-type]
    shown = json.dumps([asdict(finding) for finding in found])
    for secret in (PASSWORD, servers.SECRET_KEY, servers.PUBLISHABLE_KEY, servers.JWT_SECRET, "eyJ"):
        assert secret not in shown
    assert all(finding.fix for finding in found if finding.status != "ok")
    return found


def complaints(found: list[Finding], status: str = "fault") -> list[Finding]:
    return [finding for finding in found if finding.status == status]


def only(found: list[Finding], status: str = "fault") -> Finding:
    (finding,) = complaints(found, status)
    return finding


def sound(found: list[Finding]) -> set[str]:
    assert not [finding for finding in found if finding.status != "ok"]
    return {finding.name for finding in found}


def execute(conninfo: str, sql: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute(sql.encode())


def fix(conninfo: str, finding: Finding) -> None:
    """Do what the finding says, to the letter."""
    if finding.fix.startswith("langchain-supabase-history migrate"):
        words = finding.fix.split("  ")[0].split()[1:]
        subprocess.run(
            [
                sys.executable,
                "-c",
                "from langchain_supabase_history.commands.main import main; main()",
                *words,
                "--db-url",
                conninfo,
            ],
            check=True,
            capture_output=True,
        )
    else:
        execute(conninfo, finding.fix)


@contextlib.contextmanager
def web_server(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[str]:
    """A web server that answers everything alike: its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {
                "Content-Type": "text/html",
                "Content-Length": str(len(body)),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
