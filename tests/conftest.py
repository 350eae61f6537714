"""Fixtures: real servers, one of each for the whole run, and stores over each way to reach them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import multiprocessing.resource_tracker
import os
import random
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import langsmith.client
import psycopg_pool.base
import pytest
import tenacity.wait
import urllib3.util.retry

from langchain_supabase_history import HistoryStore, migrate
from tests import leaks, servers

# With this switch a missing part fails; without it, its tests skip and say how to install it.
REQUIRE_ALL = os.environ.get("REQUIRE_ALL_PARTS") == "1"


# What runs in the background of whatever test (a pool's workers, LangSmith's sender, whoever waits to try again) draws
# random numbers; Hypothesis does not allow that the global generator moves while it draws. So they have their own.
vars(psycopg_pool.base)["random"] = random.Random().random
for module in (langsmith.client, tenacity.wait, urllib3.util.retry):
    vars(module)["random"] = random.Random()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(leaks)  # for fixtures of the whole run too, which no conftest's hooks are asked about
    multiprocessing.resource_tracker.ensure_running()  # a process that is started once, and lives for the whole run


def missing(part: str, install: str) -> NoReturn:
    text = f"{part} is missing: {install}"
    if REQUIRE_ALL:
        pytest.fail(text)
    pytest.skip(text)


@contextlib.contextmanager
def postgres(version: int) -> Iterator[servers.Postgres]:
    """A PostgreSQL of this version, with Supabase's roles."""
    try:
        path = servers.postgres_bin(version)
    except FileNotFoundError as error:
        missing(f"PostgreSQL {version}", str(error))
    with servers.postgres(path) as server:
        server.execute(servers.SUPABASE_ROLES)
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests end when they have hung, not when the machine is slow."""
    for item in items:
        if item.get_closest_marker("soak") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def pg() -> Iterator[servers.Postgres]:
    """A PostgreSQL with Supabase's roles, listening on TCP: the embedded 18, or what POSTGRES_VERSION says."""
    with postgres(servers.POSTGRES_VERSION) as server:
        server.create_database(name="template_history")
        migrate(server.url("template_history"))
        yield server


@pytest.fixture(scope="session")
def pg15() -> Iterator[servers.Postgres]:
    """Debian's PostgreSQL 15, with Supabase's roles."""
    with postgres(15) as server:
        yield server


@pytest.fixture(scope="session")
def bouncer(pg: servers.Postgres) -> Iterator[Callable[[str], str]]:
    """PgBouncer in transaction mode: gives the way through it for a connection string."""
    if shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        missing("PgBouncer", "apt-get install pgbouncer")
    with servers.pgbouncer(pg) as port:
        yield lambda conninfo: conninfo.replace(f":{pg.port}/", f":{port}/")


@pytest.fixture
def database(pg: servers.Postgres) -> str:
    """A database of the test's own with the schema installed: its connection string."""
    return pg.url(pg.create_database("template_history"))


@pytest.fixture
def empty_database(pg: servers.Postgres) -> str:
    """A database of the test's own with nothing in it: its connection string."""
    return pg.url(pg.create_database())


@pytest.fixture(scope="session")
def shared_database(pg: servers.Postgres) -> str:
    """One database for all tests that keep apart by session or user: its connection string."""
    url = pg.url(pg.create_database("template_history", name="shared"))
    migrate(url, conversations="conversations")  # before the Data API starts, which reads the schema then
    return url


@pytest.fixture(scope="session")
def data_api(shared_database: str) -> Iterator[servers.Lite]:
    """Supabase's Data API and Auth in front of the shared database."""
    if not servers.LITE_CLI.exists():
        missing("@supabase/lite", servers.LITE_INSTALL)
    with servers.lite(shared_database) as server:
        yield server


@pytest.fixture(scope="module")
def patient(pg: servers.Postgres) -> Iterator[tuple[str, servers.Lite]]:
    """A database of the module's own and the Data API in front of it, to be harmed: its connection string, and that.

    It has the view `conversations`.
    """
    if not servers.LITE_CLI.exists():
        missing("@supabase/lite", servers.LITE_INSTALL)
    url = pg.url(pg.create_database("template_history"))
    migrate(url, conversations="conversations")
    with servers.lite(url) as api:
        yield url, api


@dataclass
class Api:
    """A store, called as `api.load(...)` whichever of its two faces the test runs on."""

    store: HistoryStore
    is_async: bool

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.store, name)
        if not self.is_async or name in ("for_user", "as_user", "with_window"):

            def call(*args: Any, **kwargs: Any) -> Any:
                result = method(*args, **kwargs)
                return Api(result, self.is_async) if isinstance(result, HistoryStore) else result

            return call
        twin = getattr(self.store, "a" + name)

        def run(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run(twin(*args, **kwargs))

        assert inspect.iscoroutinefunction(twin)
        return run


DRIVERS = ["psycopg", "psycopg-async", "data-api", "data-api-async"]


def start(store: HistoryStore) -> None:
    """Let a store start what it starts at its first use: its pools, and the loop of the async one."""
    store.load("started")
    asyncio.run(store.aload("started"))


@pytest.fixture(scope="session")
def postgres_store(shared_database: str) -> Iterator[HistoryStore]:
    with HistoryStore.from_postgres(shared_database, jwt_secret=servers.JWT_SECRET) as store:
        start(store)
        yield store


@pytest.fixture(scope="session")
def data_api_store(data_api: servers.Lite) -> Iterator[HistoryStore]:
    with HistoryStore.from_supabase(data_api.url, servers.SECRET_KEY) as store:
        start(store)
        yield store


@pytest.fixture(params=["psycopg", "data-api"])
def store(request: pytest.FixtureRequest) -> HistoryStore:
    """A store over each transport, as the application itself (no user)."""
    name = "postgres_store" if request.param == "psycopg" else "data_api_store"
    found: HistoryStore = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="session")
def pgbouncer_store(shared_database: str, bouncer: Callable[[str], str]) -> Iterator[HistoryStore]:
    with HistoryStore.from_postgres(bouncer(shared_database), jwt_secret=servers.JWT_SECRET) as store:
        start(store)
        yield store


STORES = {"psycopg": "postgres_store", "data-api": "data_api_store", "pgbouncer": "pgbouncer_store"}


@pytest.fixture(params=[*DRIVERS, "pgbouncer", "pgbouncer-async"])
def api(request: pytest.FixtureRequest) -> Api:
    """A store over each of the four drivers, and through a transaction pooler."""
    name = STORES[request.param.removesuffix("-async")]
    return Api(request.getfixturevalue(name), request.param.endswith("async"))


@pytest.fixture
def session() -> str:
    """The name of a session that no other test has."""
    return f"session-{uuid.uuid4()}"


@pytest.fixture(scope="session")
def users(data_api: servers.Lite) -> list[tuple[str, str]]:
    """Two signed-in users: (user id, access token) each."""
    return [data_api.sign_up(f"{name}-{uuid.uuid4()}@example.com") for name in ("ada", "bob")]
