"""The structure keeps to its aims, and the tools that say so can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import house


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package in a folder of its own, to break."""
    shutil.copytree(house.ROOT / house.PACKAGE, tmp_path / house.PACKAGE)
    shutil.copy(house.ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def add(folder: Path, module: str, text: str) -> None:
    path = folder / house.PACKAGE / module
    path.write_text(path.read_text() + text)


def test_imports_go_downwards() -> None:
    report = house.measure(house.ROOT)
    assert report.circles == []
    assert report.upward_imports == []


def test_files_and_functions_can_be_read_at_a_sitting() -> None:
    report = house.measure(house.ROOT)
    assert report.longest_files[0][0] < 400, report.longest_files[0]
    assert report.longest_sql[0][0] < 300, report.longest_sql[0]
    assert report.longest_functions[0][0] < 60, report.longest_functions[0]
    # The embedded server's own lock, which holds off the other threads that start or leave it; it offers no other way.
    assert report.private_reaches == ["connect.local:60 reads PostgresServer._lock"]


def test_an_upward_import_fails_the_linter(copy: Path) -> None:
    sound = lint(copy)
    assert sound.returncode == 0, sound.stdout
    add(copy, "core/values.py", "\n\ndef reach_up() -> None:\n    from ..store import HistoryStore\n")
    broken = lint(copy)
    assert broken.returncode != 0
    assert "langchain_supabase_history.core.values -> langchain_supabase_history.store" in broken.stdout
    assert house.measure(copy).upward_imports == ["core.values imports store.HistoryStore"]


def test_what_no_linter_of_imports_sees_is_measured(copy: Path) -> None:
    before = house.measure(copy)
    add(copy, "core/values.py", "\nfrom .arguments import _TURN_TEXTS\n\n\ndef reach(x):\n    return x._secret\n")
    after = house.measure(copy)
    new = set(after.private_reaches) - set(before.private_reaches)
    assert len(new) == 2
    assert "core.values imports core.arguments._TURN_TEXTS" in new
    assert any(line.endswith("reads x._secret") for line in new)
    assert after.circles == ["core.arguments -> core.values -> core.arguments"]
    assert len(after.faults()) > len(before.faults())
