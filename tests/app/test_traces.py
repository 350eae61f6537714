"""With LangSmith: an answer leads to its trace, and what is thought of it stands there too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from langchain_supabase_history import HistoryStore
from tests.app.conftest import App, Visit, until
from tests.app.test_chat import owner_of
from tests.langsmith_server import LangSmithServer, environment, langsmith_server

Visits = Callable[..., Visit]


@pytest.fixture(scope="module")
def traced(app_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, LangSmithServer]]:
    """The application with tracing, and the LangSmith that it traces to."""
    with langsmith_server() as smith:
        app = App(tmp_path_factory.mktemp("traced"), SUPABASE_DB_URL=app_database, **environment(smith.url))
        app.start()
        yield app, smith
        app.stop()


def test_an_answer_leads_to_its_trace_and_takes_feedback_there(
    visit: Visits, traced: tuple[App, LangSmithServer], store: HistoryStore
) -> None:
    app, smith = traced
    ada = visit(at=app)
    ada.ask("How long is the Po?")
    (turn,) = owner_of(store, ada.session).turns(ada.session)
    assert turn.trace_id is not None
    until(ada.page, lambda: turn.trace_id in smith.runs)

    ada.button("Details").click()
    ada.button("Find the trace").click()
    link = ada.page.get_by_role("link", name="Open in LangSmith")
    link.wait_for()
    assert str(link.get_attribute("href")).endswith(f"/r/{turn.trace_id}")
    ada.page.keyboard.press("Escape")
    ada.settle()

    ada.thumbs().first.click()
    until(ada.page, lambda: bool(smith.feedback))
    (told,) = smith.feedback.values()
    assert (told["run_id"], told["key"], told["score"]) == (turn.trace_id, "helpful", 1)


def test_a_langsmith_that_is_down_takes_nothing_from_the_page(
    visit: Visits, traced: tuple[App, LangSmithServer], store: HistoryStore
) -> None:
    app, smith = traced
    smith.behave = "500"
    try:
        ada = visit(at=app)
        ada.ask("My name is Ada")
        ada.button("Details").click()
        ada.button("Find the trace").click()
        ada.page.get_by_test_id("stPopoverBody").get_by_test_id("stAlert").wait_for()
        ada.page.keyboard.press("Escape")
        ada.settle()
        ada.thumbs().first.click()
        mine = owner_of(store, ada.session)
        until(ada.page, lambda: [given.score for given in mine.feedback(ada.session)] == [1])
        ada.settle()
        assert ada.page.get_by_test_id("stException").count() == 0
        ada.reload()
        assert ada.texts()[0] == "My name is Ada"
    finally:
        smith.behave = "well"
