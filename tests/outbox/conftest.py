"""Stores behind a proxy that takes the database away."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langchain_supabase_history import (
    HistoryStore,
)
from tests import servers
from tests.outbox.helpers import behind
from tests.proxy import Proxy, proxy


@pytest.fixture(params=["psycopg", "data-api"])
def away(request: pytest.FixtureRequest, pg: servers.Postgres, shared_database: str) -> Iterator[tuple[Proxy, Any]]:
    """A proxy in front of the database, and what makes a store through it; `refuse` and `drop_all` take it away."""
    if request.param == "psycopg":
        with proxy(pg.port) as wire:
            conninfo = shared_database.replace(f":{pg.port}/", f":{wire.port}/")
            yield wire, lambda **options: behind(wire, HistoryStore.from_postgres(conninfo, **options))
        return
    data_api: servers.Lite = request.getfixturevalue("data_api")
    with proxy(int(data_api.url.rsplit(":", 1)[1])) as wire:
        url = f"http://127.0.0.1:{wire.port}"
        yield wire, lambda **options: behind(wire, HistoryStore.from_supabase(url, servers.SECRET_KEY, **options))


@pytest.fixture
def wire(pg: servers.Postgres) -> Iterator[Proxy]:
    with proxy(pg.port) as made:
        yield made


@pytest.fixture
def make(
    wire: Proxy, pg: servers.Postgres, shared_database: str, tmp_path: Path
) -> Iterator[Callable[..., HistoryStore]]:
    """Makes stores through the proxy, with an outbox each."""
    with contextlib.ExitStack() as stores:

        def make(**options: Any) -> HistoryStore:
            conninfo = shared_database.replace(f":{pg.port}/", f":{wire.port}/") + options.pop("query", "")
            defaults: dict[str, Any] = {
                "jwt_secret": servers.JWT_SECRET,
                "outbox": tmp_path / "outbox",
            }
            store = stores.enter_context(HistoryStore.from_postgres(conninfo, **defaults | options))
            return store if "deadline" in options else behind(wire, store)

        yield make
