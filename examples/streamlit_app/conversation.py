"""What a page shows of one conversation, read in a few calls."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import streamlit as st
from langchain_core.messages import BaseMessage

from langchain_supabase_history import Alternative, Feedback, HistoryStore, StoredMessage, Turn

KEY = "helpful"
"""What feedback is given on."""


@dataclass
class Exchange:
    """A question and all that was answered."""

    turn: Turn | None
    messages: list[StoredMessage] = field(default_factory=list)
    versions: list[Alternative | None] = field(default_factory=list)  # of this question on, by age; None: the shown one
    feedback: Feedback | None = None

    @property
    def question(self) -> str:
        """What was asked."""
        waiting = self.turn.question if self.turn and not self.messages else []
        return _text([stored.message for stored in self.messages] or waiting, "human")

    @property
    def answer(self) -> str:
        """What was answered: text only, without tool calls and their results."""
        return _text([stored.message for stored in self.messages], "ai")


def _text(messages: list[BaseMessage], kind: str) -> str:
    return "\n\n".join(message.text for message in messages if message.type == kind and message.text.strip())


@dataclass
class Conversation:
    """The latest exchanges of a conversation."""

    session_id: str
    exchanges: list[Exchange]
    running: Turn | None
    has_earlier: bool


def read(store: HistoryStore, session_id: str, limit: int) -> Conversation:
    """The latest messages of a conversation, with their turns, alternatives and feedback.

    Args:
        store: The visitor's view.
        session_id: The conversation; it need not exist yet.
        limit: How many messages at the most.
    """
    turns = store.turns(session_id, limit=limit, newest_first=True)
    page = store.messages(session_id, limit=limit, newest_first=True)
    by_id = {turn.id: turn for turn in turns}
    exchanges: dict[UUID, Exchange] = {}
    for stored in reversed(page.items):
        turn_id = stored.turn_id
        exchanges.setdefault(turn_id, Exchange(by_id.get(turn_id))).messages.append(stored)
    if page.next_cursor and len(exchanges) > 1:  # the oldest may have begun on the page before
        del exchanges[next(iter(exchanges))]
    newest = turns[0] if turns else None
    if newest is not None and newest.id not in exchanges and newest.question:  # not answered, or not yet
        exchanges[newest.id] = Exchange(newest)
    if exchanges:
        _add_versions(store, session_id, list(exchanges.values()))
        for given in store.feedback(session_id, limit=limit):
            if given.key == KEY and given.turn_id in exchanges:
                exchanges[given.turn_id].feedback = given
    running = newest if newest is not None and newest.status == "running" else None
    return Conversation(session_id, list(exchanges.values()), running, page.next_cursor is not None)


def _add_versions(store: HistoryStore, session_id: str, exchanges: list[Exchange]) -> None:
    known = store.alternatives(session_id)
    if not known:
        return
    before: UUID | None = None
    for exchange in exchanges:
        if exchange.messages:
            first = exchange.messages[0]
            here = [other for other in known if other.position == first.position]
            here = [other for other in here if before is None or other.follows == before]
            if here:
                ages: list[tuple[datetime, Alternative | None]] = [
                    (_first_said(store, session_id, other), other) for other in here
                ]
                ages.append((first.created_at, None))
                exchange.versions = [other for _, other in sorted(ages, key=lambda pair: pair[0])]
            before = exchange.messages[-1].id


def _first_said(store: HistoryStore, session_id: str, alternative: Alternative) -> datetime:
    """When the first message of an alternative was said, which orders versions; the alternative itself is newer."""
    ages: dict[UUID, datetime] = st.session_state.setdefault("ages_of_alternatives", {})
    if alternative.id not in ages:
        ages[alternative.id] = store.alternative_messages(session_id, alternative)[0].created_at
    return ages[alternative.id]


def export(store: HistoryStore, session_id: str, format: Any) -> bytes:
    """A conversation as a file of this format."""
    out = io.BytesIO()
    store.export_sessions(out, format=format, session_ids=[session_id])
    return out.getvalue()


def used(store: HistoryStore, session_id: str) -> str:
    """What a conversation has used: tokens, and cost where LangSmith has told it."""
    totals = store.usage(session_id=session_id)
    if not totals or totals[0].total_tokens is None:
        return "no tokens counted yet"
    cost = totals[0].total_cost
    return f"{totals[0].total_tokens:,} tokens" + ("" if cost is None else f", ${cost:.4f}")
