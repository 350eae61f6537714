"""The owner's page: how the app is used, and any conversation of it. The database computes the numbers."""

from __future__ import annotations

import hmac
import io
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import streamlit as st
from settings import is_local, service_store, setting
from sidebar import plain, small

from langchain_supabase_history import HistoryStore, Session

PERIODS = {"7 days": 7, "30 days": 30, "90 days": 90, "A year": 365}


def show() -> None:
    """Draw the page, for the owner alone."""
    st.title("How the chat is used")
    if not is_owner():
        return
    store = service_store()
    period = st.segmented_control("Period", list(PERIODS), default="30 days", required=True)
    since = datetime.now(UTC) - timedelta(days=PERIODS[period])
    found = store.analytics(since=since)
    show_totals(asdict(found.total))
    if found.days:
        days = pd.DataFrame(map(asdict, found.days))
        show_days(days.set_index(days.pop("day").astype(str)))
    show_table(
        "Models", found.models, ["model", "turns", "failed_turns", "total_tokens", "total_cost", "median_seconds"]
    )
    show_table("Feedback", found.feedback, ["key", "given", "average_score", "comments"])
    show_table("Most used documents", found.documents, ["source", "turns"])
    with st.container(horizontal=True):
        days = pd.DataFrame(map(asdict, found.days)).to_csv(index=False)
        st.download_button("Days as CSV", days, "days.csv", "text/csv", on_click="ignore")
        numbers = json.dumps(asdict(found), default=str, indent=2)
        st.download_button("All numbers as JSON", numbers, "analytics.json", "application/json", on_click="ignore")
        messages = lambda: exported(store, since)  # noqa: E731
        st.download_button("Messages as CSV", messages, "messages.csv", "text/csv", on_click="ignore")
    show_conversations(store)


def is_owner() -> bool:
    """Whether the visitor knows the owner's password; on an embedded database there is nobody else."""
    password = setting("OWNER_PASSWORD")
    if password is None:
        if not is_local():
            st.info("Set OWNER_PASSWORD in the app's secrets to open this page.")
        return is_local()
    if st.session_state.get("is_owner"):
        return True
    with st.form("owner", border=False):
        given = st.text_input("The owner's password", type="password")
        if st.form_submit_button("Open"):
            if hmac.compare_digest(given.encode(), password.encode()):
                st.session_state["is_owner"] = True
                st.rerun()
            st.error("That is not it.")
    return False


def show_totals(total: dict[str, Any]) -> None:
    """The numbers of the whole period."""
    cost = total["total_cost"]
    numbers = {
        "Conversations": total["sessions"],
        "Users": total["users"],
        "Questions": total["turns"],
        "Failed": total["failed_turns"],
        "Stopped": total["interrupted_turns"],
        "Tokens": total["total_tokens"],
        "Cost": None if cost is None else f"${cost:.2f}",
        "Median time": seconds(total["median_seconds"]),
        "95th percentile": seconds(total["p95_seconds"]),
        "First token": seconds(total["median_first_token_seconds"]),
    }
    with st.container(horizontal=True):
        for label, value in numbers.items():
            st.metric(label, "–" if value is None else value, width=140)


def seconds(value: float | None) -> str | None:
    """A duration, or None where it is unknown."""
    return None if value is None else f"{value:.2f} s"


def show_days(days: pd.DataFrame) -> None:
    """Charts by day."""
    st.subheader("Conversations and users a day")
    st.bar_chart(days[["sessions", "users"]], stack=False, x_label="day")
    st.subheader("Tokens a day")
    st.bar_chart(days["total_tokens"], x_label="day", y_label="tokens")
    st.subheader("Time to answer, in seconds")
    times = days[["median_first_token_seconds", "median_seconds", "p95_seconds"]].astype(float)
    st.bar_chart(times, stack=False, x_label="day")
    st.subheader("Failed and stopped answers")
    st.bar_chart(days[["failed_turns", "interrupted_turns"]], x_label="day")


def show_table(title: str, rows: list[Any], columns: list[str]) -> None:
    """Some numbers as a table."""
    st.subheader(title)
    if rows:
        st.table(pd.DataFrame(map(asdict, rows))[columns].set_index(columns[0]))
    else:
        small("None in this period.")


def show_conversations(store: HistoryStore) -> None:
    """Find a conversation, and read it."""
    st.subheader("Conversations")
    query = st.text_input("Find a conversation by its title or text")
    sessions = store.sessions(query.strip() or None, all_users=True, archived=None, limit=50)

    def name(session: Session) -> str:
        return f"{session.title or 'Untitled'} ({session.user_id or 'nobody'}, {session.updated_at:%Y-%m-%d %H:%M})"

    chosen = st.selectbox("Read", list(sessions), index=None, format_func=name, placeholder="Choose a conversation")
    if chosen is None:
        return
    view = store if chosen.user_id is None else store.for_user(chosen.user_id)
    for stored in reversed(view.messages(chosen.session_id, limit=100, newest_first=True).items):
        if stored.message.text.strip():
            small(f"{stored.message.type}, {stored.created_at:%Y-%m-%d %H:%M:%S}")
            st.markdown(plain(stored.message.text))


def exported(store: HistoryStore, since: datetime) -> bytes:
    """Everybody's messages since a time."""
    out = io.BytesIO()
    store.export_sessions(out, format="csv", all_users=True, since=since, archived=None)
    return out.getvalue()
