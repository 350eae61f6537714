"""Stop, reload, close, kill: a turn that a page leaves is kept with what was shown, once."""

from __future__ import annotations

import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from langchain_supabase_history import HistoryStore, Turn
from tests.app.conftest import App, Visit, until
from tests.app.test_chat import owner_of
from tests.proxy import proxy

Visits = Callable[..., Visit]
STORY = "Tell me a story of 10000 words"
"""What is broken off; its end would come after five minutes, however slow the machine is."""
SHORT_STORY = "Tell me a story"
WHOLE_STORY = "Tell me a story of 600 words"
"""What is read to its end, which comes after 18 seconds: time to do something meanwhile."""


def ended(visit: Visit, store: HistoryStore, count: int = 1) -> Turn:
    """The newest turn of a conversation, when none of it runs any more."""
    session_id = visit.session
    mine = owner_of(store, session_id)
    found: list[Turn] = []

    def is_ended() -> bool:
        found[:] = mine.turns(session_id, newest_first=True)
        return len(found) == count and found[0].status != "running"

    until(visit.page, is_ended)
    return found[0]


def stored(visit: Visit, store: HistoryStore) -> list[str]:
    """What is stored of a conversation, in the form in which a page shows it."""
    messages = owner_of(store, visit.session).messages(visit.session)
    return [" ".join(message.message.text.split()) for message in messages]


def stop(visit: Visit, store: HistoryStore, words: int, count: int = 1) -> list[str]:
    """Ask for a story, press Stop in the middle of it, and give what the page shows then."""
    visit.ask_and_watch(STORY, words)
    visit.button("Stop script").click()
    visit.settle()
    assert ended(visit, store, count).status == "interrupted"
    return visit.texts()


def test_stop_keeps_exactly_what_was_shown(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    shown = stop(ada, store, 5)
    assert shown == stored(ada, store)
    assert len(shown[1].split()) >= 5
    ada.screenshot("stopped")
    ada.reload()
    ada.page.get_by_text("This answer was stopped.").wait_for()
    assert ada.texts() == shown
    ada.ask("My name is Ada")
    assert ada.texts()[2:] == ["My name is Ada", "Nice to meet you, Ada. I will remember that."]


def test_a_rerun_shows_question_and_partial_answer_at_once(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    ada.ask_and_watch(STORY, 5)
    ada.page.get_by_test_id("stSidebar").get_by_text("Archived").click()  # any widget: the run is stopped for another
    ada.page.get_by_text("This answer was stopped.").wait_for()
    ada.settle()
    assert ended(ada, store).status == "interrupted"
    assert ada.texts() == stored(ada, store)
    assert len(ada.texts()) == 2


def test_a_reload_in_mid_stream_loses_nothing_and_shows_nothing_twice(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    ada.ask_and_watch(STORY, 5)
    ada.reload()
    ada.page.get_by_text("This answer was stopped.").wait_for()
    ada.settle()
    assert ended(ada, store).status == "interrupted"
    assert ada.texts() == stored(ada, store)


def test_a_closed_tab_interrupts_the_turn(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    until(ada.page, lambda: any(cookie["name"] == "chat_guest" for cookie in ada.page.context.cookies()))
    watching = visit(ada.page.context.cookies(), f"/?session={ada.session}")
    ada.ask_and_watch(STORY, 5)
    ada.page.close()
    assert ended(watching, store).status == "interrupted"
    watching.reload()
    assert watching.texts() == stored(watching, store)
    assert len(watching.texts()[1].split()) >= 5


def test_a_lost_connection_interrupts_the_turn_and_comes_back_by_itself(
    visit: Visits, app: App, store: HistoryStore
) -> None:
    with proxy(app.port) as wire:
        ada = visit(at=app.through(wire.port))
        ada.ask_and_watch(STORY, 5)
        wire.refuse = True
        wire.drop_all()
        assert ended(ada, store).status == "interrupted"
        wire.refuse = False
        ada.page.get_by_text("This answer was stopped.").wait_for()
        ada.settle()
        assert ada.texts() == stored(ada, store)
        assert len(ada.texts()) == 2
        ada.ask("My name is Ada")
        assert ada.texts() == stored(ada, store)
        ada.page.close()
        ada.errors.clear()  # of the connection that was lost


def test_another_tab_waits_for_the_answer_and_asks_nothing_meanwhile(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    ada.ask_and_watch(WHOLE_STORY, 3)
    other = visit(ada.page.context.cookies(), f"/?session={ada.session}")
    other.said().nth(1).wait_for()  # when the answer is there
    other.settle()
    ada.button("Regenerate").wait_for()
    assert ended(ada, store).status == "completed"
    assert other.texts() == ada.texts() == stored(ada, store)


def test_a_server_that_is_killed_in_mid_stream(
    visit: Visits, app_database: str, store: HistoryStore, tmp_path: Path
) -> None:
    server = App(tmp_path, SUPABASE_DB_URL=app_database)
    server.start()
    try:
        ada = visit(at=server)
        ada.ask("My name is Ada")
        ada.ask_and_watch(STORY, 3)
        server.stop(signal.SIGKILL)
        server.start()
        ada.reload()
        ada.button("Do not wait for it").click()
        ada.page.get_by_text("This answer was stopped.").wait_for()
        ada.settle()
        assert ada.texts() == ["My name is Ada", "Nice to meet you, Ada. I will remember that.", STORY]
        ada.ask("Who am I?")
        assert ada.texts()[-1] == "Your name is Ada."
        ada.page.close()
        ada.errors.clear()  # of the connection that was lost
    finally:
        server.stop()


@pytest.mark.soak
def test_stop_20_times_at_random_moments(visit: Visits, store: HistoryStore) -> None:
    chosen = random.Random(13)
    for _ in range(20):
        ada = visit()
        shown = stop(ada, store, chosen.randint(1, 60))
        assert shown == stored(ada, store)
        ada.page.context.close()


@pytest.mark.soak
def test_reload_20_times_at_random_moments(visit: Visits, store: HistoryStore) -> None:
    chosen = random.Random(14)
    for _ in range(20):
        ada = visit()
        ada.ask_and_watch(STORY, chosen.randint(1, 60))
        ada.reload()
        ada.page.get_by_text("This answer was stopped.").wait_for()
        ada.settle()
        ended(ada, store)
        assert ada.texts() == stored(ada, store)
        ada.page.context.close()


@pytest.mark.soak
def test_how_soon_the_answer_begins(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    times = []
    for count in range(1, 21):
        before = ada.said().count()
        ada.ask("My name is Ada", wait=False)
        ada.said().nth(before + 1).wait_for()
        seen = time.time()
        turn = ended(ada, store, count)
        assert turn.started_at is not None
        times.append(seen - turn.started_at.timestamp() - turn.metadata["first_token_seconds"])
        ada.button("Regenerate").wait_for()
        ada.settle()
    print(f"\nfrom the model's first token to the page: {statistics.median(times) * 1000:.0f} ms, the median of 20")


@pytest.mark.soak
def test_many_conversations_do_not_slow_the_first_paint(visit: Visits, store: HistoryStore) -> None:
    few, many = visit(), visit()
    for guest in (few, many):
        guest.ask("My name is Ada")
    mine = owner_of(store, many.session)
    said = [("human" if number % 2 == 0 else "ai", f"message {number}") for number in range(100)]
    for number in range(100):
        mine.append(f"many-{number}", said)
    medians = []
    for guest in (few, many):
        times = []
        for _ in range(7):
            began = time.monotonic()
            guest.page.reload()
            guest.said().nth(1).wait_for()
            times.append(time.monotonic() - began)
            guest.settle()
        medians.append(statistics.median(times))
    print(f"\nfirst paint with 100 conversations to 1: {medians[1] / medians[0]:.2f} ({medians[0] * 1000:.0f} ms)")
