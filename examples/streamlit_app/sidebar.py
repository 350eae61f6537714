"""The visitor's conversations: new, search, a list by activity, older ones by page."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime

import identity
import streamlit as st

from langchain_supabase_history import Session

PAGE = 20


def show(who: identity.Visitor, current: str) -> None:
    """Draw the sidebar."""
    with st.sidebar:
        st.button("New conversation", icon=":material/add:", width="stretch", on_click=open_session, args=[None])
        query = st.text_input("Search", placeholder="Search", label_visibility="collapsed", type="search")
        if query.strip():
            _show_hits(who, query)
        else:
            _show_list(who, current)
        st.divider()
        _show_account(who)


def open_session(session_id: str | None) -> None:
    """Go to a conversation; None for a new one."""
    st.query_params["session"] = session_id or str(uuid.uuid4())
    for name in ("editing", "messages_shown"):
        st.session_state.pop(name, None)


def _show_list(who: identity.Visitor, current: str) -> None:
    archived = st.toggle("Archived")
    shown = st.session_state.setdefault("sessions_shown", PAGE)
    page = who.store.sessions(archived=archived, limit=shown)
    if not page:
        small("Nothing archived." if archived else "No conversations yet.")
    for session in sorted(page, key=lambda session: not session.pinned):
        _show_row(session, current)
    if page.next_cursor and st.button("Older conversations"):
        st.session_state["sessions_shown"] = shown + PAGE
        st.rerun()


def _show_row(session: Session, current: str) -> None:
    st.button(
        f"{plain(session.title or 'Untitled')} :small[· {ago(session.updated_at)}]",
        key=f"open-{session.session_id}",
        icon=":material/keep:" if session.pinned else None,
        type="secondary" if session.session_id == current else "tertiary",
        on_click=open_session,
        args=[session.session_id],
    )


def _show_hits(who: identity.Visitor, query: str) -> None:
    titled = [(s.session_id, s.title, s.excerpt) for s in who.store.sessions(query, archived=None, limit=PAGE)]
    hits = [(hit.session_id, hit.title, hit.excerpt) for hit in who.store.search(query, limit=PAGE)]
    found = {session_id: (title, excerpt) for session_id, title, excerpt in [*titled, *hits]}
    if not found:
        small("Nothing found.")
    for session_id, (title, excerpt) in found.items():
        st.button(
            plain(title or "Untitled"),
            key=f"found-{session_id}",
            type="tertiary",
            on_click=open_session,
            args=[session_id],
        )
        small(plain(excerpt or ""))


def _show_account(who: identity.Visitor) -> None:
    small(f"You are here as **{plain(who.name)}**.")
    if who.kind != "guest":
        st.button("Sign out", on_click=identity.sign_out, args=[who])
    elif identity.auth_settings() or identity.has_login():
        with st.popover("Sign in", width="stretch"):
            identity.sign_in_form()


def small(text: str) -> None:
    """Show a line of small text; a caption of Streamlit's is too pale to be read by everybody."""
    if text:
        st.markdown(f":small[{text}]")


def plain(text: str) -> str:
    """Text that Streamlit shows as it is, in a label that takes Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~$:&])", r"\\\1", " ".join(text.split()))


def ago(when: datetime) -> str:
    """How long ago something was."""
    seconds = (datetime.now(UTC) - when).total_seconds()
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} ago"
    return "now"
