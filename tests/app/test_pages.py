"""The owner's page, and that all pages can be used by everybody: with a screen reader, on a phone."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from langchain_supabase_history import HistoryStore, Turn
from tests import servers
from tests.app.conftest import Visit
from tests.conftest import missing

Visits = Callable[..., Visit]
AXE = servers.ROOT / ".cache" / "axe" / "node_modules" / "axe-core" / "axe.min.js"


def turn_of(number: int) -> Turn:
    """One of many questions that were asked on different days."""
    asked = datetime.now(UTC) - timedelta(days=number // 4, minutes=number)
    tokens = 300 + 37 * (number % 9)
    return Turn(
        uuid.uuid4(),
        status="failed" if number % 23 == 0 else "completed",
        model=("gpt-4.1-mini", "claude-haiku-4-5")[number % 3 == 0],
        input_tokens=tokens - 60,
        output_tokens=60,
        total_tokens=tokens,
        started_at=asked,
        ended_at=asked + timedelta(seconds=1 + number % 5),
        metadata={"first_token_seconds": 0.2 + number % 4 / 10},
        documents=[{"source": ("po.md", "turin.md", "tram.md")[number % 3]}],
    )


@pytest.fixture
def violations() -> Callable[[Visit], list[str]]:
    """Gives what axe-core finds on a page that keeps somebody from using it."""
    if not AXE.exists():
        missing("axe-core", "make .cache/axe.stamp")

    def find(visit: Visit) -> list[str]:
        visit.page.add_script_tag(content=AXE.read_text())
        found = visit.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{violation['id']}: {violation['help']}: {node['html'][:300]}"
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]

    return find


def test_the_owner_sees_charts_and_reads_a_conversation(
    visit: Visits, store: HistoryStore, violations: Callable[[Visit], list[str]]
) -> None:
    for number in range(60):  # two weeks of questions
        turn = turn_of(number)
        said = [("human", f"Question {number}"), ("ai", f"Answer {number}")]
        store.for_user(f"user-{number % 7}").append(f"of-the-owner-{number % 11}-{number // 4}", said, turn=turn)
    ada = visit()
    ada.ask("My name is Zoe")
    owner = visit(address="/?owner=1", size=(1100, 1400))
    owner.page.get_by_label("The owner's password").fill("guess")
    owner.button("Open").click()
    owner.page.get_by_text("That is not it.").wait_for()
    owner.page.get_by_label("The owner's password").fill("let me in")
    owner.button("Open").click()
    owner.page.get_by_test_id("stMetric").first.wait_for()
    owner.page.get_by_test_id("stVegaLiteChart").nth(3).locator("canvas, svg").first.wait_for()
    owner.settle()
    owner.screenshot("owner")
    assert violations(owner) == []
    with owner.page.expect_download() as download:
        owner.button("Days as CSV").click()
    assert download.value.path().read_text().startswith("turns,")
    with owner.page.expect_download() as download:
        owner.button("Messages as CSV").click()
    assert "My name is Zoe" in download.value.path().read_text()
    owner.page.get_by_role("combobox", name="Read").click()
    owner.page.get_by_role("option").filter(has_text="Zoe").first.click()
    owner.page.get_by_text("Nice to meet you, Zoe").wait_for()


def test_a_chat_is_accessible_and_fits_a_phone(visit: Visits, violations: Callable[[Visit], list[str]]) -> None:
    ada = visit(size=(390, 844))
    ada.ask("My name is Ada")
    ada.button("Regenerate").click()
    ada.page.get_by_text("2/2").wait_for()
    ada.settle()
    assert ada.page.evaluate("document.documentElement.scrollWidth") <= 390
    ada.screenshot("phone")
    assert violations(ada) == []
    wide = visit(ada.page.context.cookies(), f"/?session={ada.session}")
    wide.button("Regenerate").wait_for()
    assert violations(wide) == []
    wide.button("Manage").click()
    wide.page.get_by_label("Title").wait_for()
    assert violations(wide) == []
