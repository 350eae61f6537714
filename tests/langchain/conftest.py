"""Whatever a test of this folder loads is judged by what providers publish."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from langchain_supabase_history import HistoryStore
from tests.validator import assert_accepted

# Fake models repeat an id, and some answer nothing: that is what was said, whoever refuses it.
SAID = ("call_ids_are_unique",)


@pytest.fixture(autouse=True)
def _judged_loads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `load` and `aload` gives what OpenAI, Anthropic and Gemini accept."""
    load, aload = HistoryStore.load, HistoryStore.aload
    marker = request.node.get_closest_marker("refused")
    but = (*SAID, *(marker.args if marker else ()))

    def judged(self: HistoryStore, *args: Any, **kwargs: Any) -> list[BaseMessage]:
        loaded = load(self, *args, **kwargs)
        assert_accepted(loaded, but=but)
        return loaded

    async def ajudged(self: HistoryStore, *args: Any, **kwargs: Any) -> list[BaseMessage]:
        loaded = await aload(self, *args, **kwargs)
        assert_accepted(loaded, but=but)
        return loaded

    monkeypatch.setattr(HistoryStore, "load", judged)
    monkeypatch.setattr(HistoryStore, "aload", ajudged)
