"""The fixtures for applications' own tests, in a run of pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage

from langchain_supabase_history.testing import fresh_store

SUITE = """
import asyncio
import pytest
from langchain_core.messages import HumanMessage

seen = set()

@pytest.mark.parametrize("n", range(3))
def test_each_has_a_store_of_its_own(history_store, n):
    assert history_store.sessions().items == []
    history_store.append("s", [HumanMessage(str(n))])
    assert [m.text for m in history_store.load("s")] == [str(n)]
    seen.add(history_store.driver.schema)
    assert len(seen) == n + 1

def test_async(history_store):
    async def main():
        await history_store.aappend("s", [HumanMessage("q")])
        return await history_store.aload("s")
    assert len(asyncio.run(main())) == 1

def test_users_are_kept_apart(history_store):
    history_store.for_user("bob").append("s", [HumanMessage("bob's")])
    assert history_store.as_user(claims={"sub": "bob"}).load("s")
    assert history_store.as_user(claims={"sub": "ada"}).load("s") == []
"""


def test_each_test_has_a_fresh_store(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["langchain_supabase_history.testing"]\n')
    (tmp_path / "test_bot.py").write_text(SUITE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-W",
        "ignore:XDG_RUNTIME_DIR",
        "-p",
        "no:cacheprovider",
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_a_store_on_a_database_that_is_there(shared_database: str) -> None:
    with fresh_store(shared_database) as one, fresh_store(shared_database) as other:
        one.append("s", [HumanMessage("one")])
        assert other.load("s") == []
        assert one.driver.schema != other.driver.schema
