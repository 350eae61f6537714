"""What other operating systems would break, as far as it can be seen on this one."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from langchain_supabase_history import HistoryStore
from langchain_supabase_history.core.settings import network_fault
from langchain_supabase_history.transfer.sources.building import read_time
from tests import servers

PACKAGE = servers.ROOT / "langchain_supabase_history"
POSIX_ONLY = {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog", "posix"}
POSIX_CALLS = {"fork", "getuid", "geteuid", "mkfifo", "killpg", "setsid", "SIGKILL", "SIGALRM", "SIGHUP", "AF_UNIX"}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text("utf-8"))


def test_nothing_of_posix_alone_is_used() -> None:
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [(node.module or "").partition(".")[0]]
            elif isinstance(node, ast.Attribute) and node.attr in POSIX_CALLS:
                names = [node.attr]
            found += [f"{path.name}: {name}" for name in names if name in POSIX_ONLY | POSIX_CALLS]
    assert found == []


def test_every_text_file_is_opened_with_its_encoding_and_line_ends() -> None:
    """Windows has other defaults for both, and a line end before which csv has written its own becomes two."""
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            given = {keyword.arg for keyword in node.keywords}
            name, arguments = node.func.attr, node.args
            if name == "open" and arguments and isinstance(arguments[0], ast.Constant):
                mode = str(arguments[0].value)
                if "b" not in mode and not ("encoding" in given and (mode == "r" or "newline" in given)):
                    found.append(f"{path.name}:{node.lineno} open")
            if name == "read_text" and not (arguments or "encoding" in given):
                found.append(f"{path.name}:{node.lineno} read_text")
            if name == "write_text" and not ((len(arguments) > 1 or "encoding" in given) and "newline" in given):
                found.append(f"{path.name}:{node.lineno} write_text")
    assert found == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_that_cannot_write_everything_ends_no_command(
    encoding: str, shared_database: str, session: str, postgres_store: HistoryStore
) -> None:
    postgres_store.append(session, HumanMessage("caf\u00e9 \U0001f600 \u4f60\u597d"))
    for options in ([], ["--json"]):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "langchain_supabase_history",
                "show",
                session,
                "--db-url",
                shared_database,
                *options,
            ],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"caf" in done.stdout


def test_times_before_1970_are_read() -> None:
    """`datetime.fromtimestamp` refuses them on Windows."""
    for seconds, year in ((-1, 1969), (-86400 * 365 * 10.5, 1959), (0, 1970), (1.5, 1970)):
        found = read_time(seconds)
        assert found is not None
        assert found.year == year
    assert read_time(1e300) is None
    assert read_time(float("nan")) is None


def test_a_variable_is_named_once_where_case_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Windows(dict[str, str]):
        def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
            return super().get(name.upper(), default)

    monkeypatch.setattr(os, "environ", Windows(HTTPS_PROXY="nonsense://x"))
    fault = network_fault(ValueError())
    assert fault is not None
    assert fault.says.lower().count("https_proxy") == 1
