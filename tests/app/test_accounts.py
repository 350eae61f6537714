"""A guest makes an account on Supabase Auth, and row level security holds from then on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from langchain_supabase_history import HistoryStore
from tests import servers
from tests.app.conftest import App, Visit
from tests.app.test_chat import ADA
from tests.conftest import missing

Visits = Callable[..., Visit]


@pytest.fixture(scope="module")
def auth_app(pg: servers.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, str]]:
    """The application with Supabase Auth, and the connection string of its database."""
    if not servers.LITE_CLI.exists():
        missing("@supabase/lite", servers.LITE_INSTALL)
    url = pg.url(pg.create_database("template_history"))
    with servers.lite(url) as project:
        server = App(
            tmp_path_factory.mktemp("auth-app"),
            SUPABASE_DB_URL=url,
            SUPABASE_URL=project.url,
            SUPABASE_PUBLISHABLE_KEY=servers.PUBLISHABLE_KEY,
        )
        server.start()
        yield server, url
        server.stop()


def sign(visit: Visit, button: str, email: str, password: str) -> None:
    """Fill in the form, and press one of its buttons."""
    sidebar = visit.page.get_by_test_id("stSidebar")
    sidebar.get_by_role("button", name="Sign in").click()
    visit.page.get_by_label("E-mail").fill(email)
    visit.page.get_by_label("Password", exact=True).fill(password)
    visit.page.get_by_test_id("stPopoverBody").get_by_role("button", name=button).click()


def test_a_guest_becomes_an_account_and_takes_the_conversations_along(visit: Visits, auth_app: tuple[App, str]) -> None:
    app, url = auth_app
    email = f"ada-{uuid.uuid4().hex[:8]}@example.com"
    ada = visit(at=app)
    ada.ask("My name is Ada")
    sign(ada, "Sign up", email, "password-1")
    ada.page.get_by_text(email).wait_for()
    ada.settle()
    ada.page.get_by_test_id("stSidebar").get_by_role("button", name="My name is Ada").click()
    ada.page.get_by_text(ADA[1]).wait_for()
    ada.settle()
    ada.ask("Who am I?")  # written as the user, under row level security
    assert ada.texts()[-1] == "Your name is Ada."
    with HistoryStore.from_postgres(url) as store:
        (session,) = store.sessions(all_users=True, prefix=ada.session)
        assert uuid.UUID(session.user_id)
        assert session.message_count == 4
    ada.screenshot("account")

    ada.reload()
    ada.page.get_by_text(email).wait_for()
    ada.settle()
    assert len(ada.texts()) == 4
    ada.button("Sign out").click()
    ada.page.get_by_text("Guest").wait_for()
    ada.settle()
    assert ada.texts() == []
    ada.page.get_by_text("No conversations yet.").wait_for()

    elsewhere = visit(at=app)
    sign(elsewhere, "Sign in", email, "wrong-password")
    elsewhere.page.get_by_test_id("stPopoverBody").get_by_test_id("stAlert").wait_for()
    elsewhere.page.keyboard.press("Escape")
    sign(elsewhere, "Sign in", email, "password-1")
    elsewhere.page.get_by_text(email).wait_for()
    elsewhere.settle()
    elsewhere.page.get_by_test_id("stSidebar").get_by_role("button", name="My name is Ada").click()
    elsewhere.page.get_by_text("Your name is Ada.").wait_for()

    bob = visit(at=app, address=f"/?session={ada.session}")
    sign(bob, "Sign up", f"bob-{uuid.uuid4().hex[:8]}@example.com", "password-1")
    bob.page.get_by_text("bob-").first.wait_for()
    bob.settle()
    bob.page.get_by_text("No conversations yet.").wait_for()
