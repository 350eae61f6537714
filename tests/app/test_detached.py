"""Answers that outlive the page: a page is reloaded or closed in the middle of one, and it is written to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from langchain_supabase_history import HistoryStore
from tests.app.conftest import App, Visit, until
from tests.app.test_chat import owner_of
from tests.app.test_leaving import SHORT_STORY, STORY, WHOLE_STORY, ended, stored
from tests.proxy import proxy

Visits = Callable[..., Visit]


@pytest.fixture(scope="module")
def detaching(app_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The application with answers that outlive their pages."""
    server = App(tmp_path_factory.mktemp("detaching"), SUPABASE_DB_URL=app_database, DETACHED_TURNS="1")
    server.start()
    yield server
    server.stop()


def test_a_page_that_is_reloaded_in_mid_stream_goes_on_reading(
    visit: Visits, detaching: App, store: HistoryStore
) -> None:
    ada = visit(at=detaching)
    ada.ask_and_watch(WHOLE_STORY, 5)
    ada.page.reload()
    ada.said().nth(1).wait_for()
    ada.button("Stop the answer").wait_for()
    shown = ada.texts()
    ada.button("Regenerate").wait_for()
    ada.settle()
    assert ended(ada, store).status == "completed"
    assert ada.texts() == stored(ada, store)
    assert len(ada.texts()) == 2
    assert ada.texts()[1].startswith(shown[1])


def test_a_connection_that_was_lost_goes_on_reading(visit: Visits, detaching: App, store: HistoryStore) -> None:
    with proxy(detaching.port) as wire:
        ada = visit(at=detaching.through(wire.port))
        ada.ask_and_watch(WHOLE_STORY, 5)
        wire.refuse = True
        wire.drop_all()
        ada.page.wait_for_timeout(1000)  # of the answer that nobody reads
        wire.refuse = False
        ada.button("Regenerate").wait_for()
        ada.settle()
        assert ended(ada, store).status == "completed"
        assert ada.texts() == stored(ada, store)
        assert len(ada.texts()) == 2
        ada.page.close()
        ada.errors.clear()  # of the connection that was lost


def test_an_answer_is_written_to_its_end_behind_a_closed_tab(
    visit: Visits, detaching: App, store: HistoryStore
) -> None:
    ada = visit(at=detaching)
    until(ada.page, lambda: any(cookie["name"] == "chat_guest" for cookie in ada.page.context.cookies()))
    other = visit(ada.page.context.cookies(), f"/?session={ada.session}", at=detaching)
    ada.ask_and_watch(SHORT_STORY, 5)
    ada.page.close()
    assert ended(other, store).status == "completed"
    other.reload()
    assert other.texts() == stored(other, store)
    assert len(other.texts()) == 2


def test_another_device_stops_it(visit: Visits, detaching: App, store: HistoryStore) -> None:
    ada = visit(at=detaching)
    ada.ask_and_watch(STORY, 3)
    other = visit(ada.page.context.cookies(), at=detaching)
    other.page.goto(ada.page.url)
    other.button("Stop the answer").click()
    for page in (ada, other):
        page.page.get_by_text("This answer was stopped.").wait_for()
        page.settle()
    assert ended(ada, store).status == "interrupted"
    assert ada.texts() == other.texts() == stored(ada, store)
    assert len(ada.texts()) == 2


def test_what_else_is_pressed_is_answered_at_once(visit: Visits, detaching: App, store: HistoryStore) -> None:
    ada = visit(at=detaching)
    ada.ask_and_watch(SHORT_STORY, 3)
    session_id = ada.session
    ada.button("New conversation").click()
    ada.page.get_by_text("What would you like to know?").wait_for()
    ada.settle()
    assert ada.texts() == []
    until(ada.page, lambda: owner_of(store, session_id).turns(session_id)[0].status == "completed")
