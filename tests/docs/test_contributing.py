"""The walks of CONTRIBUTING.md on a copy of the package: files are written, changes applied, scripts run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import house
from tests import servers
from tests.docs.test_docs import promised

PAGE = (servers.ROOT / "CONTRIBUTING.md").read_text()
PACKAGE = "langchain_supabase_history"
BLOCKS = re.findall(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)
SCRIPTS = [name for _, name, _ in BLOCKS if name.startswith("try_")]


def apply(change: str, path: Path) -> None:
    """Apply a change without line numbers: its old lines stand in the file once."""
    lines = change.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] != "+")
    new = "".join(line[1:] for line in lines if line[0] != "-")
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} does not have these lines once:\n{old}"
    path.write_text(text.replace(old, new))


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(folder)} | environment
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository after the walks."""
    folder = tmp_path_factory.mktemp("contributing")
    shutil.copytree(servers.ROOT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(servers.ROOT / "pyproject.toml", folder)
    for language, name, text in BLOCKS:
        path = folder / name
        if language == "diff":
            apply(text, path)
        else:
            assert not path.exists(), f"{name} is there already"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def walked_database(walked: Path, pg: servers.Postgres) -> str:
    """A database that the copy has migrated."""
    conninfo = pg.url(pg.create_database())
    done = run(walked, sys.executable, "-m", PACKAGE, "migrate", "--db-url", conninfo)
    assert done.returncode == 0, done.stderr
    return conninfo


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_walks_print_what_they_say(walked: Path, walked_database: str, script: str) -> None:
    done = run(walked, sys.executable, script, SUPABASE_DB_URL=walked_database)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == promised((walked / script).read_text())


def test_there_are_four_walks() -> None:
    assert SCRIPTS == ["try_operation.py", "try_format.py", "try_source.py", "try_sdk.py"]


def test_the_walks_keep_the_rules(walked: Path) -> None:
    report = house.measure(walked)
    assert report.circles == []
    assert report.upward_imports == []
    assert len(report.faults()) == len(house.measure(servers.ROOT).faults())
    ruff = str(Path(sys.executable).with_name("ruff"))
    files = sorted({name for _, name, _ in BLOCKS if name.endswith(".py") and not name.startswith("try_")})
    for command in ("check", "format"):
        options = ["--check"] if command == "format" else []
        done = run(walked, ruff, command, *options, *files)
        assert done.returncode == 0, done.stdout
    mypy = [str(Path(sys.executable).with_name("mypy")), *files, "--follow-imports=silent"]
    done = run(walked, *mypy)
    assert done.returncode == 0, done.stdout


def test_the_walked_operation_is_documented_as_the_reference_asks(walked: Path) -> None:
    code = f"from {PACKAGE} import HistoryStore as S; from scripts.reference import undocumented as u;"
    code += "print(list(u(S.count_types, S.acount_types)), list(u(S.acount_types)))"
    shutil.copytree(servers.ROOT / "scripts", walked / "scripts", dirs_exist_ok=True)
    (walked / "docs" / "reference").mkdir(parents=True, exist_ok=True)
    done = run(walked, sys.executable, "-c", code)
    assert done.stdout.strip() == "[] []", done.stderr


def test_every_file_that_the_table_names_exists() -> None:
    table = PAGE.split("## Where something goes")[1].split("\n## ")[0]
    for name in re.findall(r"`([\w/.]+\.(?:py|sql|md))`", table):
        place = servers.ROOT / name if name.startswith("docs/") else servers.ROOT / PACKAGE / name
        assert place.exists(), name
