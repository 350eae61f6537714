"""The chat page: answers that are streamed, conversations that are found again, and nothing of anybody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_supabase_history import HistoryStore
from tests.app.conftest import Visit

Visits = Callable[..., Visit]
ADA = ["My name is Ada", "Nice to meet you, Ada. I will remember that."]


def owner_of(store: HistoryStore, session_id: str) -> HistoryStore:
    """The view of whoever has this conversation."""
    (found,) = store.sessions(all_users=True, prefix=session_id, hidden=True)
    assert found.user_id is not None
    return store.for_user(found.user_id)


def test_answers_are_text_and_a_reload_resumes(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    ada.ask("My name is Ada")
    ada.ask("What is 12 * 7?")
    ada.ask("How long is the Po?")
    river = "The river Po is 652 km long. It rises on Monte Viso and ends in the Adriatic sea."
    said = [*ADA, "What is 12 * 7?", "That makes 84.", "How long is the Po?", river]
    assert ada.texts() == said  # no content block as JSON, no bubble of a tool
    ada.button("Details").nth(1).click()
    ada.page.get_by_text("multiply").wait_for()
    ada.page.keyboard.press("Escape")
    ada.button("Details").nth(2).click()
    ada.page.get_by_text("po.md").first.wait_for()
    ada.screenshot("details")
    ada.page.keyboard.press("Escape")
    ada.reload()
    assert ada.texts() == said
    ada.ask("Who am I?")
    assert ada.texts()[-1] == "Your name is Ada."
    ada.screenshot("chat")
    (usage,) = owner_of(store, ada.session).usage(session_id=ada.session)
    ada.page.get_by_text(f"{usage.total_tokens} tokens").wait_for()


def test_an_empty_session_in_the_address_is_none(visit: Visits) -> None:
    guest = visit(address="/?session=")
    assert guest.session
    guest.ask("My name is Ada")
    assert guest.texts() == ADA


def test_another_browser_of_the_same_user_and_another_user(visit: Visits) -> None:
    ada = visit()
    ada.ask("My name is Ada")
    cookies = ada.page.context.cookies()
    again = visit(cookies)
    again.button("My name is Ada").first.click()
    again.page.get_by_text(ADA[1]).wait_for()
    assert again.session == ada.session
    bob = visit(address=f"/?session={ada.session}")
    assert bob.texts() == []
    bob.page.get_by_text("No conversations yet.").wait_for()
    forged = [{**cookie, "value": cookie["value"][:-2] + "xx"} for cookie in cookies if cookie["name"] == "chat_guest"]
    mallory = visit(forged)
    mallory.page.get_by_text("No conversations yet.").wait_for()


def test_a_guest_is_known_by_the_address_where_cookies_cannot_be_set(visit: Visits, browser: Any) -> None:
    guest = visit()
    guest.page.add_init_script("Object.defineProperty(document, 'cookie', {get: () => '', set: () => true})")
    guest.page.goto("about:blank")  # the page before may be setting its cookie just now
    guest.page.context.clear_cookies()
    guest.page.goto(guest.app.url)
    guest.page.wait_for_url("**guest=**")
    guest.settle()
    guest.ask("My name is Ada")
    guest.page.context.clear_cookies()
    guest.page.goto(guest.page.url.replace("session=", "nothing="))
    guest.settle()
    guest.button("My name is Ada").first.wait_for()


def test_regenerate_and_edit_with_a_pager(visit: Visits) -> None:
    ada = visit()
    ada.ask("My name is Ada")
    ada.button("Regenerate").click()
    ada.page.get_by_text("2/2").wait_for()
    ada.settle()
    assert ada.texts() == ADA
    ada.button("Edit").click()
    ada.page.get_by_label("Edit your question").fill("My name is Eve")
    ada.button("Send", exact=True).click()
    ada.page.get_by_text("3/3").wait_for()
    ada.settle()
    eve = ["My name is Eve", "Nice to meet you, Eve. I will remember that."]
    assert ada.texts() == eve
    ada.button("Previous version").click()
    ada.page.get_by_text("2/3").wait_for()
    ada.settle()
    assert ada.texts() == ADA
    ada.screenshot("versions")
    ada.reload()
    ada.page.get_by_text("2/3").wait_for()
    ada.button("Next version").click()
    ada.page.get_by_text("3/3").wait_for()
    ada.settle()
    assert ada.texts() == eve
    ada.ask("Who am I?")
    assert ada.texts()[-1] == "Your name is Eve."


def test_conversations_are_renamed_pinned_archived_found_and_deleted(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    ada.ask("My name is Ada")
    ada.button("New conversation").click()
    ada.page.get_by_text("What would you like to know?").wait_for()
    ada.settle()
    ada.ask("How long is the Po?")
    mine = owner_of(store, ada.session)

    ada.button("Manage").click()
    ada.page.get_by_label("Title").fill("A *river*")
    ada.button("Rename").click()
    ada.page.get_by_role("heading", name="A *river*").wait_for()
    ada.settle()
    ada.button("Pin", exact=True).click()
    ada.button("Unpin").wait_for()
    assert mine.session(ada.session).pinned
    ada.settle()
    with ada.page.expect_download() as download:
        ada.button("Export Markdown").click()
    assert "652 km" in download.value.path().read_text()
    with ada.page.expect_download() as download:
        ada.button("Export JSON").click()
    assert "652 km" in download.value.path().read_text()
    ada.button("Archive", exact=True).click()
    ada.button("Take out of the archive").wait_for()
    ada.settle()
    ada.page.keyboard.press("Escape")
    assert [session.title for session in mine.sessions()] == ["My name is Ada"]

    ada.page.get_by_placeholder("Search").fill("adriatic")
    ada.page.get_by_placeholder("Search").press("Enter")
    ada.page.get_by_text("Adriatic sea").first.wait_for()
    ada.settle()
    ada.screenshot("search")
    ada.page.get_by_test_id("stSidebar").get_by_role("button", name="A *river*").click()
    ada.settle()
    ada.button("Manage").click()
    ada.button("Delete").click()
    ada.page.get_by_text("What would you like to know?").wait_for()
    ada.settle()
    assert len(mine.sessions(archived=None)) == 1


def test_thumbs_and_comments_are_kept(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    ada.ask("My name is Ada")
    mine = owner_of(store, ada.session)
    ada.thumbs().first.click()
    ada.settle()
    ada.button("Comment").click()
    ada.page.get_by_role("textbox", name="Comment").fill("Polite.")
    ada.button("Keep comment").click()
    ada.page.get_by_text("Thank you.").wait_for()
    ada.settle()
    (given,) = mine.feedback(ada.session)
    assert (given.key, given.score, given.comment) == ("helpful", 1, "Polite.")
    ada.reload()
    (still,) = mine.feedback(ada.session)
    assert still.score == 1


def test_an_answer_that_fails_is_said_so_and_can_be_asked_again(visit: Visits, store: HistoryStore) -> None:
    ada = visit()
    ada.ask("Please fail", wait=False)
    ada.page.get_by_text("This answer failed.").wait_for()
    ada.settle()
    assert ada.texts() == ["Please fail"]
    ada.button("Edit").click()
    ada.page.get_by_label("Edit your question").fill("My name is Ada")
    ada.button("Send", exact=True).click()
    ada.page.get_by_text(ADA[1]).wait_for()
    ada.settle()
    assert ada.texts() == ADA
