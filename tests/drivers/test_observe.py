"""What operations report: a log line, `on_operation`, a span; numbers and names, no content and no secret."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_supabase_history import Conflict, HistoryStore, InvalidInput, Operation, Window
from langchain_supabase_history.drivers import observe
from tests import servers
from tests.proxy import proxy

WORDS = "the words of a message"
LOGGER = "langchain_supabase_history.operations"


def made(way: str, database: str, api: servers.Lite, **options: Any) -> HistoryStore:
    if way == "psycopg":
        return HistoryStore.from_postgres(database, jwt_secret=servers.JWT_SECRET, **options)
    return HistoryStore.from_supabase(api.url, servers.SECRET_KEY, **options)


def call(store: HistoryStore, is_async: bool, method: str, *args: Any) -> Any:
    return asyncio.run(getattr(store, "a" + method)(*args)) if is_async else getattr(store, method)(*args)


ways = pytest.mark.parametrize("way", ["psycopg", "data-api"])
faces = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@ways
@faces
def test_each_operation_is_reported_once(
    way: str,
    is_async: bool,
    shared_database: str,
    data_api: servers.Lite,
    session: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Operation] = []
    message_id = str(uuid.uuid4())
    with made(way, shared_database, data_api, on_operation=seen.append) as store:
        with caplog.at_level(logging.DEBUG, LOGGER):
            asyncio.run(store.aappend(session, [HumanMessage(WORDS)], ids=[message_id])) if is_async else store.append(
                session, [HumanMessage(WORDS)], ids=[message_id]
            )
            call(store, is_async, "load", session)
        with pytest.raises(Conflict):
            store.append(session, [HumanMessage("other words")], ids=[message_id])
    appended, loaded, refused = seen
    assert (appended.name, appended.tries, appended.error) == ("append", 1, None)
    assert appended.bytes_sent > len(WORDS) + len(session)
    assert loaded.name.startswith("load")
    assert loaded.bytes_received > len(WORDS)
    assert min(operation.milliseconds for operation in seen) > 0
    assert (refused.name, refused.error) == ("append", "Conflict")
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(lines) == 2
    assert lines[0].startswith("append: ")
    assert f"{appended.bytes_sent} bytes sent" in lines[0]
    assert not any(word in line for line in lines for word in (WORDS, session, message_id))


@faces
def test_tries_are_counted(shared_database: str, pg: servers.Postgres, session: str, is_async: bool) -> None:
    seen: list[Operation] = []
    with proxy(pg.port) as way:
        url = shared_database.replace(f":{pg.port}/", f":{way.port}/")
        with HistoryStore.from_postgres(url, on_operation=seen.append) as store:
            call(store, is_async, "load", session)
            way.drop_all()
            call(store, is_async, "load", session)
    assert [operation.tries for operation in seen] == [1, 2]


def test_a_hook_that_raises_harms_nothing(shared_database: str, session: str, caplog: pytest.LogCaptureFixture) -> None:
    def fails(operation: Operation) -> None:
        raise ZeroDivisionError

    with HistoryStore.from_postgres(shared_database, on_operation=fails) as store:
        assert store.load(session) == []
    assert "on_operation raised" in caplog.text
    with pytest.raises(InvalidInput, match="on_operation"):
        HistoryStore.from_postgres(shared_database, on_operation=3)  # type: ignore[arg-type]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(observe, "_tracer", lambda: provider.get_tracer("tests"))
    with provider.get_tracer("tests").start_as_current_span("turn"):
        yield exporter
    provider.shutdown()


@ways
@faces
def test_each_operation_is_a_span_under_the_applications_own(
    spans: InMemorySpanExporter, way: str, is_async: bool, shared_database: str, data_api: servers.Lite, session: str
) -> None:
    with made(way, shared_database, data_api) as store:
        message_id = str(uuid.uuid4())
        call(store, is_async, "append", session, [HumanMessage(WORDS)])
        store.append(session, [HumanMessage(WORDS)], ids=[message_id])
        with pytest.raises(Conflict):
            store.append(session, [HumanMessage("others")], ids=[message_id])
    first, _, second = spans.get_finished_spans()
    parent = trace.get_current_span().get_span_context()
    assert first.name == "chat_history_append"
    assert first.parent is not None
    assert first.parent.span_id == parent.span_id
    assert first.attributes is not None
    assert first.attributes["chat_history.tries"] == 1
    assert first.attributes["db.system.name"] == "postgresql"
    assert not first.status.description
    assert second.attributes is not None
    assert second.attributes["error.type"] == "Conflict"
    assert WORDS not in "".join(span.to_json() for span in (first, second) if isinstance(span, ReadableSpan))


def test_without_a_listener_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "_tracer", lambda: None)
    with observe.observe("chat_history_load", None) as meter:
        assert meter is None


def test_pools_tell_their_numbers(shared_database: str, data_api: servers.Lite, session: str) -> None:
    with HistoryStore.from_postgres(shared_database, pool_size=3) as store:
        assert store.pool_stats() == {}
        store.load(session)
        assert set(store.pool_stats()) == {"sync"}
        asyncio.run(store.aload(session))
        stats = store.pool_stats()
        assert set(stats) == {"sync", "async"}
        assert stats["sync"]["pool_max"] == stats["async"]["pool_max"] == 3
    assert store.pool_stats() == {}
    with HistoryStore.from_supabase(data_api.url, servers.SECRET_KEY) as store:
        store.load(session)
        assert store.pool_stats() == {}


def test_a_repr_says_whose_through_what_and_how(shared_database: str, data_api: servers.Lite) -> None:
    with made("psycopg", shared_database, data_api) as store:
        text = repr(store.for_user("ada").with_window(Window(messages=20)))
        assert "transport='psycopg'" in text
        assert "user_id='ada'" in text
        assert "messages=20" in text
        assert "as_user" in repr(store.as_user("a.b.c"))
        assert "a.b.c" not in repr(store.as_user("a.b.c"))
    with made("data-api", shared_database, data_api) as store:
        assert "transport='data-api'" in repr(store)
