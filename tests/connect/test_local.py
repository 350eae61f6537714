"""The embedded PostgreSQL: which folders it takes, which it refuses untouched, and when it ends."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from langchain_supabase_history import HistoryStore, NotConfigured
from langchain_supabase_history.connect.local import default_path

TALK = """
import sys
from langchain_core.messages import HumanMessage
from langchain_supabase_history import HistoryStore
with HistoryStore.local(*sys.argv[1:]) as store:
    store.append("s", [HumanMessage("hello")])
    print(len(store.load("s")), flush=True)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for an embedded PostgreSQL: not pytest's, whose parent each run of pytest closes to other users."""
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as path:
        yield Path(path).resolve()


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a process of Python code, its arguments, and variables by keyword."""
    started: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: object, **environ: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environ})
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


@pytest.mark.parametrize("name", ["odd+%41@=~-:.名", "x" * 120])
def test_a_folder_with_an_odd_name_resumes(start: Start, folder: Path, name: str) -> None:
    assert told(start(TALK, folder / name)) == "1"
    assert told(start(TALK, folder / name)) == "2"


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("Application Support", "a blank"),
        ("it's", '"\'"'),
        ("a;b", "';'"),
        ("a$b", "'$'"),
        ("a,b", "','"),
        ("a\tb", r"'\t'"),
        ("a(b", "'('"),
        ("a\\b", r"'\\'"),
    ],
)
def test_a_path_that_a_shell_would_read_otherwise_is_refused_untouched(folder: Path, name: str, sign: str) -> None:
    with pytest.raises(NotConfigured) as caught:
        HistoryStore.local(folder / name / "postgres")
    assert f"its path has {sign} in it" in caught.value.says
    assert 'HistoryStore.local("/some/folder")' in caught.value.advice
    assert list(folder.iterdir()) == []


def test_the_default_folder_is_elsewhere_where_the_usual_one_will_not_do(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    assert default_path() == folder / "data" / "langchain-supabase-history" / "postgres"
    library = folder / "Library" / "Application Support"  # as on macOS
    monkeypatch.setenv("XDG_DATA_HOME", str(library))
    assert default_path() == folder / ".langchain-supabase-history" / "postgres"
    assert told(start(TALK, HOME=str(folder), XDG_DATA_HOME=str(library))) == "1"
    assert default_path().exists()
    assert not library.exists()


def test_a_folder_that_is_a_file_or_holds_other_things_is_refused_untouched(folder: Path) -> None:
    (folder / "file").write_text("kept")
    (folder / "full").mkdir(mode=0o700)
    (folder / "full" / "notes.txt").write_text("kept")
    before = (folder / "full").stat()
    with pytest.raises(NotConfigured, match="is a file"):
        HistoryStore.local(folder / "file")
    with pytest.raises(NotConfigured, match=r"holds other things than a PostgreSQL.*empty folder"):
        HistoryStore.local(folder / "full")
    after = (folder / "full").stat()
    assert (before.st_uid, stat.S_IMODE(before.st_mode)) == (after.st_uid, stat.S_IMODE(after.st_mode))
    assert [path.name for path in (folder / "full").iterdir()] == ["notes.txt"]
    with pytest.raises(NotConfigured, match=r"cannot be used: .*Give a folder that you may write to\."):
        HistoryStore.local(folder / "file" / "postgres")


def test_a_killed_process_is_struck_off_without_the_others(start: Start, folder: Path) -> None:
    """Two processes come to a folder whose last user was killed; the first is held up while it reads who uses it."""
    path = folder / "postgres"
    stay = TALK + "    sys.stdin.readline()\n    print(len(store.load('s')))\n"
    slow = "import psutil\nreal = psutil.pid_exists\ndef pid_exists(pid):\n    print('asked', flush=True)\n"
    slow += "    import time; time.sleep(2); return real(pid)\npsutil.pid_exists = pid_exists\n" + TALK

    killed = start(stay, path)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "1\n"
    killed.kill()
    killed.communicate()
    first = start(slow, path)
    assert first.stdout is not None
    assert first.stdout.readline() == "asked\n"
    second = start(stay, path)
    assert second.stdout is not None
    second.stdout.readline()
    told(first)
    assert json.loads((path / ".handle_pids.json").read_text()) == [second.pid]
    assert second.communicate("\n", timeout=60)[0] == "3\n"  # it is still served
    assert not (path / "postmaster.pid").exists()  # and the server ended with it
