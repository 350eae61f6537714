"""The chat application in a real Chromium: its server, started and ended by process id, and browsers of visitors."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from langchain_supabase_history import HistoryStore
from tests import servers
from tests.conftest import missing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", servers.ROOT / ".cache" / "screenshots"))
WAIT = 60_000  # milliseconds that a loaded machine may take; what is waited for is a state, never a time


class App:
    """A server of the chat application.

    Attributes:
        secrets: The file of secrets that it reads.
        others: The addresses that its pages may ask besides its own.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = environment
        self.port = servers.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.secrets: Path | None = None
        self.others: list[str] = []

    def start(self) -> None:
        """Start the server; a second time on the same port."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SUPABASE_", "LANGSMITH_", "OPENAI_", "ANTHROPIC_", "CHAT_", "OWNER_"))
        }
        log = self.folder / "log"
        options = {"port": str(self.port), "address": "127.0.0.1", "headless": "true", "fileWatcherType": "none"}
        secrets = [f"--secrets.files={self.secrets}"] if self.secrets else []
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "ignore", "-m", "streamlit", "run", "app.py"),
                    *(f"--server.{name}={value}" for name, value in options.items()),
                    *secrets,
                ],
                cwd=servers.ROOT / "examples" / "streamlit_app",
                stdout=out,
                stderr=out,
                env={**inherited, **self.environment},
            )
        servers.wait_for_port(self.port, self.process, log, 90)

    def through(self, port: int) -> App:
        """The same server at another port, which leads to it."""
        same = copy.copy(self)
        same.port, same.url = port, f"http://127.0.0.1:{port}"
        return same

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """End the server."""
        if self.process is not None:
            servers.stop(self.process, signum)
            self.process = None


class Visit:
    """A visitor's browser, at the application."""

    def __init__(self, app: App, page: Page) -> None:
        self.app, self.page = app, page
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.allowed = (app.url, f"ws://127.0.0.1:{app.port}", "data:", "blob:", *app.others)
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._requested(request.url))

    def _requested(self, url: str) -> None:
        if not url.startswith(self.allowed):
            self.outside.append(url)

    def open(self, address: str = "/") -> Visit:
        """Go to an address, and wait until the page is drawn."""
        self.page.goto(self.app.url + address)
        self.settle()
        return self

    def settle(self) -> None:
        """Wait until the page's run has ended."""
        self.page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()

    def reload(self) -> None:
        """Load the page again."""
        self.page.reload()
        self.settle()

    def ask(self, question: str, *, wait: bool = True) -> None:
        """Send a question, and wait for the whole answer."""
        before = self.said().count()
        box = self.page.get_by_placeholder("Ask something")
        box.fill(question)
        box.press("Enter")
        if wait:
            self.said().nth(before + 1).wait_for()
            self.page.get_by_role("button", name="Regenerate").wait_for()
            self.settle()

    def ask_and_watch(self, question: str, words: int) -> None:
        """Send a question, and wait until so many words of the answer are on the page."""
        before = self.said().count()
        self.ask(question, wait=False)
        self.said().nth(before + 1).wait_for()
        until(self.page, lambda: len(self.texts()[-1].split()) >= words)

    def said(self) -> Locator:
        """The bubbles of the conversation."""
        return self.page.get_by_test_id("stChatMessage")

    def texts(self) -> list[str]:
        """What is in the bubbles."""
        return [" ".join(text.split()) for text in self.said().locator("[data-testid=stMarkdown]").all_inner_texts()]

    def button(self, name: str, **options: Any) -> Locator:
        """A button by its name."""
        return self.page.get_by_role("button", name=name, **options)

    def thumbs(self) -> Locator:
        """The thumbs up and down under the answers: buttons in some versions of Streamlit, radios in others."""
        widget = self.page.get_by_test_id("stFeedback")
        widget.first.wait_for()
        return widget.get_by_role("button").or_(widget.get_by_role("radio"))

    @property
    def session(self) -> str:
        """The conversation that the address names."""
        return str(self.page.url).partition("session=")[2].partition("&")[0]

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


def until(page: Page, is_so: Callable[[], bool]) -> None:
    """Wait until something is so; what is waited for is a state, and the time is only an end to the patience."""
    end = time.monotonic() + WAIT / 1000
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        page.wait_for_timeout(50)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    path = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("Playwright", "pip install playwright")
    if path is None:
        missing("Chromium", "apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def app_database(pg: servers.Postgres) -> str:
    """The application's database: its connection string."""
    return pg.url(pg.create_database("template_history", name=f"app_{uuid.uuid4().hex[:8]}"))


@pytest.fixture(scope="package")
def store(app_database: str) -> Iterator[HistoryStore]:
    """The application's conversations, as their owner sees them."""
    with HistoryStore.from_postgres(app_database) as opened:
        yield opened


@pytest.fixture(scope="package")
def app(app_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The application; its model streams content blocks."""
    server = App(
        tmp_path_factory.mktemp("app"),
        SUPABASE_DB_URL=app_database,
        COOKIE_SECRET="a secret of the tests, long enough to sign with",
        OWNER_PASSWORD="let me in",
        CHAT_BLOCKS="1",
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def visit(browser: Browser, app: App) -> Iterator[Callable[..., Visit]]:
    """Opens the application as a visitor: a new one, or the one whose cookies are given.

    Whatever the test does, nothing is asked of another host, and no page reports an error.
    """
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    def make(
        cookies: list[Any] | None = None, address: str = "/", at: App = app, size: tuple[int, int] = (1100, 800)
    ) -> Visit:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
        contexts.append(context)
        if cookies:
            context.add_cookies(cookies)
        visits.append(Visit(at, context.new_page()))
        return visits[-1].open(address)

    yield make
    for context in contexts:
        with contextlib.suppress(Exception):  # its server may be gone
            context.close()
    assert [url for visit in visits for url in visit.outside] == []
    assert [error for visit in visits for error in visit.errors] == []
