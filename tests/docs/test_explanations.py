"""How a message travels, and the glossary: functions run as the page says, terms are defined once and linked."""

from __future__ import annotations

import re
import sys
import uuid
from types import FrameType
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_supabase_history import HistoryStore
from scripts import house
from tests import servers

DOCS = servers.ROOT / "docs"
SOURCES = servers.ROOT / "langchain_supabase_history"
TRAVELS = (DOCS / "how-a-message-travels.md").read_text()
GLOSSARY = (DOCS / "glossary.md").read_text()
PAGES = [servers.ROOT / "README.md", servers.ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def called(store: HistoryStore) -> list[tuple[str, str]]:
    """What is called for one turn, in the order of the first calls: names, and files."""
    bot = store.with_history(RunnableLambda(lambda messages: "answer"))
    config: Any = {"configurable": {"session_id": f"travels-{uuid.uuid4()}"}}
    bot.invoke("warm up", config)
    found: dict[tuple[str, str], None] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        _, package, file = frame.f_code.co_filename.replace("\\", "/").rpartition("/langchain_supabase_history/")
        if event == "call" and package:
            found.setdefault((frame.f_code.co_qualname, file))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        bot.invoke("Hello", config)
    finally:
        sys.setprofile(before)
    return list(found)


def test_a_turn_takes_the_way_that_the_page_describes(postgres_store: HistoryStore) -> None:
    steps = re.findall(r"^\| \d+ \| `([\w.]+)` \| `([\w/.]+)` \|", TRAVELS, re.MULTILINE)
    assert len(steps) == 15
    way = called(postgres_store)
    assert [step for step in way if step in steps] == steps


def test_its_sql_functions_are_where_the_page_says() -> None:
    named = re.findall(r"^\| `(chat_history_\w+)` \| `(\w+\.sql)` \|", TRAVELS, re.MULTILINE)
    assert len(named) == 7
    for name, file in named:
        assert f"create function {name}(" in (SOURCES / "sql" / file).read_text(), name


def test_the_picture_shows_the_floors_from_the_top_down() -> None:
    picture = (DOCS / "pictures" / "floors.svg").read_text()
    shown = re.findall(r'class="n">([^<]+)<', picture)
    floors = [{name for name in floor if list(SOURCES.glob(f"{name}*"))} for floor in house.FLOORS]
    assert [set(name.split(" · ")) for name in shown[:-1]] == floors[::-1]


def test_each_term_is_defined_once_in_the_order_of_the_alphabet() -> None:
    terms = re.findall(r"^## (.+)$", GLOSSARY, re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower)
    wanted = {"Turn", "Window", "Epoch", "Session", "Transport", "Outbox", "Revision", "Replay", "Plan", "Position"}
    assert wanted <= set(terms)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "glossary.md"], ids=lambda page: page.name)
def test_rare_terms_link_to_the_glossary(page: Any) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    if page.name == "sql.md":  # its tables name columns
        return
    for term in ("epoch", "revision"):
        if re.search(rf"\b{term}s?\b", text):
            assert f"glossary.md#{term}" in text, f"{page.name} uses the word {term}"
