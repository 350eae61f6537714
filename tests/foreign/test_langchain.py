"""LangChain's own tests of agents and of histories, with this library put into them.

They are in the source distributions of `langchain` and `langchain-core`, as PyPI has them, not in the wheels. Unpack
these into a folder, install what they need (pytest-asyncio, pytest-socket, pytest-mock, syrupy, langchain-tests), and
name it:

    FOREIGN_SUITES=/folder python -m pytest tests/foreign
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers

PLUGIN = Path(__file__).with_name("plugin.py")
SUITES = {
    "langchain-1*": ["tests/unit_tests/agents", "--ignore=tests/unit_tests/agents/middleware_typing"],
    "langchain_core-1*": ["tests/unit_tests/runnables/test_history.py", "tests/unit_tests/chat_history"],
}
DELIBERATE = {
    # An agent is given copies with ids, so that the application's own messages are left as they are.
    "test_agent_routes_using_latest_human_message[False]",
    "test_agent_routes_using_latest_human_message[True]",
    "test_create_agent_does_not_duplicate_historical_tool_messages",
    # LangChain's class is deprecated, ours is not.
    "test_chat_history_deprecated[History]",
}


def run(folder: Path, arguments: list[str], environment: dict[str, str], *options: str) -> tuple[set[str], int]:
    """Which of a suite's tests fail, and how many pass."""
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", "-o", "asyncio_mode=auto", "-rf"]
    done = subprocess.run(
        [*command, "--continue-on-collection-errors", *options, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout[-2000:] + done.stderr[-2000:]
    return set(re.findall(r"^FAILED \S+?::(\S+)", done.stdout, re.MULTILINE)), int(passed[1])


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pattern", SUITES)
def test_langchains_own_tests(database: str, tmp_path: Path, pattern: str) -> None:
    folders = sorted(Path(os.environ.get("FOREIGN_SUITES", "/nowhere")).glob(pattern))
    if not folders:
        pytest.skip("FOREIGN_SUITES names no folder with the source distribution")
    # As a module of its own: `tests` is theirs.
    (tmp_path / "foreign_plugin.py").write_text(PLUGIN.read_text())
    path = os.pathsep.join([str(tmp_path), str(servers.ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {"FOREIGN_DATABASE": database, "PYTHONPATH": path}
    alone, _ = run(folders[-1], SUITES[pattern], environment)
    with_ours, passed = run(folders[-1], SUITES[pattern], environment, "-p", "foreign_plugin")
    print(f"{pattern}: {passed} pass, {len(with_ours)} fail, of these {len(alone)} without this library too")
    assert with_ours - alone <= DELIBERATE
