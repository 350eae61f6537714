"""Who signs in with `st.login`: an account of Supabase Auth where it takes the id token, else an owner of their own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from langchain_supabase_history import HistoryStore
from tests import servers
from tests.app.conftest import App, Visit
from tests.app.identity_provider import CLIENT, IdentityProvider

Visits = Callable[..., Visit]
DISABLED = 400, {"code": 400, "error_code": "provider_disabled", "msg": "Provider is not enabled"}


@pytest.fixture(scope="module")
def provider(data_api: servers.Lite) -> Iterator[IdentityProvider]:
    """The identity provider, and Supabase Auth that takes its id tokens."""
    made = IdentityProvider(data_api.url)
    yield made
    made.close()


def started(folder: Path, provider: IdentityProvider, **environment: str) -> App:
    """The application, with `st.login` configured as Streamlit's page says."""
    app = App(folder, **environment)
    app.others.append(provider.url)
    app.secrets = folder / "secrets.toml"
    app.secrets.write_text(
        f"""
[auth]
redirect_uri = "{app.url}/oauth2callback"
cookie_secret = "a secret of the tests, long enough to sign with"
client_id = "{CLIENT}"
client_secret = "kept by both"
server_metadata_url = "{provider.url}/.well-known/openid-configuration"
expose_tokens = ["id"]
"""
    )
    app.start()
    return app


@pytest.fixture(scope="module")
def mapped(app_database: str, provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The application without Supabase Auth."""
    app = started(tmp_path_factory.mktemp("mapped"), provider, SUPABASE_DB_URL=app_database)
    yield app
    app.stop()


@pytest.fixture(scope="module")
def exchanging(
    shared_database: str, provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App]:
    """The application with a Supabase Auth that takes the provider's id tokens."""
    app = started(
        tmp_path_factory.mktemp("exchanging"),
        provider,
        SUPABASE_DB_URL=shared_database,
        SUPABASE_URL=provider.url,
        SUPABASE_PUBLISHABLE_KEY=servers.PUBLISHABLE_KEY,
        ID_TOKEN_PROVIDER="keycloak",
    )
    yield app
    app.stop()


def person(provider: IdentityProvider) -> str:
    """Who signs in next: the address."""
    name = uuid.uuid4().hex[:8]
    provider.person = {"sub": name, "email": f"{name}@example.com"}
    return f"{name}@example.com"


def sign_in(visit: Visit, email: str) -> None:
    """Sign in with the provider, and wait for the page."""
    visit.page.get_by_test_id("stSidebar").get_by_role("button", name="Sign in").click()
    visit.button("Sign in with your organisation").click()
    visit.page.get_by_text(email).wait_for()
    visit.settle()


def sign_out(visit: Visit) -> None:
    """Sign out, and wait for the page."""
    visit.button("Sign out").click()
    visit.page.get_by_text("Guest").wait_for()
    visit.settle()


def open_the_first(visit: Visit) -> None:
    """Open the conversation of the list."""
    visit.page.get_by_test_id("stSidebar").get_by_role("button", name="My name is Ada").click()
    visit.page.get_by_text("Nice to meet you, Ada.").wait_for()
    visit.settle()


def owner(store: HistoryStore, session_id: str) -> str | None:
    """Whose a conversation is."""
    (session,) = store.sessions(all_users=True, prefix=session_id)
    return session.user_id


def test_an_identity_owns_what_it_writes(
    visit: Visits, mapped: App, provider: IdentityProvider, store: HistoryStore
) -> None:
    email = person(provider)
    ada = visit(at=mapped)
    ada.ask("My name is Ada")  # as a guest
    session_id = ada.session
    sign_in(ada, email)
    assert owner(store, session_id) == f"oidc:{provider.url}|{email.partition('@')[0]}"
    open_the_first(ada)
    ada.ask("Who am I?")
    assert ada.texts()[-1] == "Your name is Ada."
    ada.reload()
    assert len(ada.texts()) == 4

    elsewhere = visit(at=mapped)
    sign_in(elsewhere, email)
    open_the_first(elsewhere)
    sign_out(elsewhere)
    assert elsewhere.texts() == []
    other = person(provider)
    sign_in(elsewhere, other)
    elsewhere.page.get_by_text("No conversations yet.").wait_for()


def test_an_identity_becomes_an_account_where_supabase_takes_its_token(
    visit: Visits, exchanging: App, provider: IdentityProvider, shared_database: str
) -> None:
    email = person(provider)
    ada = visit(at=exchanging)
    ada.ask("My name is Ada")
    session_id = ada.session
    sign_in(ada, email)
    with HistoryStore.from_postgres(shared_database) as store:
        assert uuid.UUID(owner(store, session_id))
    open_the_first(ada)
    ada.ask("Who am I?")  # written as the user, under row level security
    assert ada.texts()[-1] == "Your name is Ada."
    provider.refusal = 400, {"code": 400, "error_code": "bad_jwt", "msg": "Bad ID token"}
    try:
        ada.reload()  # the refresh token of its cookie is enough
        assert len(ada.texts()) == 4
    finally:
        provider.refusal = None
    (cookie,) = (cookie for cookie in ada.page.context.cookies() if cookie["name"] == "chat_account")
    sign_out(ada)
    ada.page.context.add_cookies([cookie])  # as if the page had gone before its script deleted the cookie
    ada.reload()
    ada.page.get_by_text("Guest").wait_for()
    ada.page.get_by_text("No conversations yet.").wait_for()


def test_an_identity_whose_provider_is_not_enabled_owns_what_it_writes(
    visit: Visits, exchanging: App, provider: IdentityProvider, shared_database: str
) -> None:
    email = person(provider)
    provider.refusal = DISABLED
    try:
        ada = visit(at=exchanging)
        ada.ask("My name is Ada")
        session_id = ada.session
        sign_in(ada, email)
        with HistoryStore.from_postgres(shared_database) as store:
            assert str(owner(store, session_id)).startswith("oidc:")
    finally:
        provider.refusal = None


def test_a_token_that_has_expired_is_asked_for_again(
    visit: Visits, exchanging: App, provider: IdentityProvider
) -> None:
    email = person(provider)
    ada = visit(at=exchanging)
    sign_in(ada, email)
    ada.page.context.clear_cookies(name="chat_account")
    provider.refusal = 400, {"code": 400, "error_code": "bad_jwt", "msg": "Bad ID token"}
    try:
        ada.page.reload()
        ada.page.get_by_text("Guest").wait_for()
        ada.settle()
    finally:
        provider.refusal = None
    sign_in(ada, email)


def test_nobody_is_taken_for_another_while_supabase_auth_is_away(
    visit: Visits, exchanging: App, provider: IdentityProvider
) -> None:
    email = person(provider)
    provider.refusal = 503, {"msg": "The service is away."}
    try:
        ada = visit(at=exchanging)
        ada.page.get_by_test_id("stSidebar").get_by_role("button", name="Sign in").click()
        ada.button("Sign in with your organisation").click()
        ada.page.get_by_text("The service is away. Load the page again in a moment.").wait_for()
    finally:
        provider.refusal = None
    ada.page.reload()
    ada.page.get_by_text(email).wait_for()
