"""The chat page: one conversation, and what may be done with it."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

import identity
import sidebar
import streamlit as st
from conversation import KEY, Conversation, Exchange, export, read, used
from langchain_core.runnables import RunnableConfig
from settings import answers_outlive_pages, assistant

from langchain_supabase_history import HistoryError, HistoryStore, Turn
from langchain_supabase_history.streamlit import text_chunks

MESSAGES = 40
LOST_AFTER = 300  # seconds after which a turn that nobody ends is taken for lost with its process


def show() -> None:
    """Draw the page, and answer what was asked."""
    who = identity.visitor()
    session_id = st.query_params.get("session") or str(uuid.uuid4())  # an empty one is none
    st.query_params["session"] = session_id  # in the address: a reload resumes
    wait_for_the_last_answer(who.store, session_id)
    shown = st.session_state.setdefault("messages_shown", MESSAGES)
    conversation = read(who.store, session_id, shown)
    sidebar.show(who, session_id)
    if conversation.exchanges:
        show_menu(who.store, conversation)
    else:
        st.title("What would you like to know?")
        sidebar.small("Try: *How long is the Po?*, *What is 12 * 7?*, *Tell me a story.*")
    if conversation.has_earlier and st.button("Earlier messages"):
        st.session_state["messages_shown"] = shown + MESSAGES
        st.rerun()
    for exchange in conversation.exchanges:
        show_exchange(who.store, conversation, exchange)
    identity.send_cookies()
    is_busy = conversation.running is not None
    mode: Literal["submit", "stop"] = "submit" if answers_outlive_pages() else "stop"
    asked = st.chat_input("Ask something", submit_mode=mode, disabled=is_busy)
    if question := asked or st.session_state.pop("pending", None):
        answer(who.store, session_id, question)
    elif conversation.running is not None:
        show_running(who.store, session_id, conversation.running)


# --- one question


def answer(store: HistoryStore, session_id: str, question: str) -> None:
    """Ask, and show the answer as it comes. However it ends, the turn is recorded with what was shown."""
    with st.chat_message("human"):
        st.markdown(question)
    bot, config = store.with_history(assistant()), RunnableConfig(configurable={"session_id": session_id})
    if answers_outlive_pages():
        try:
            store.run_turn(bot, question, config)
        except HistoryError as error:  # nothing was asked
            st.error(str(error))
            return
        st.rerun()
    st.session_state["answering"] = session_id
    stream = bot.stream(question, config)
    with st.chat_message("ai"):
        try:
            st.write_stream(text_chunks(stream))
        except HistoryError as error:  # the answer is on the page, and nowhere else
            st.error(f"This is not kept: {error}")
            return
        except Exception:  # the turn is recorded as failed; the page that follows says so
            pass
    st.session_state.pop("answering", None)
    st.rerun()


def wait_for_the_last_answer(store: HistoryStore, session_id: str) -> None:
    """Wait, for a second at the most, until an answer that this page was stopped in is recorded."""
    if st.session_state.pop("answering", None) != session_id:
        return
    until = time.monotonic() + 1
    while time.monotonic() < until:
        newest = store.turns(session_id, limit=1, newest_first=True)
        if not newest or newest[0].status != "running":
            return
        time.sleep(0.05)


def show_running(store: HistoryStore, session_id: str, turn: Turn) -> None:
    """Follow an answer that is written in the background, or wait for one that is written elsewhere, or nowhere."""
    store.interrupt_turns(session_id, older_than=LOST_AFTER)
    if answers_outlive_pages():
        bubble = st.container()
        st.button("Stop the answer", on_click=stop, args=[store, session_id, turn])
        with bubble.chat_message("ai"):
            if st.write_stream(delta.text for delta in store.follow(session_id, turn_id=turn.id)):
                st.rerun()

    @st.fragment(run_every=0.5)
    def wait() -> None:
        newest = store.turns(session_id, limit=1, newest_first=True)
        if not newest or newest[0].id != turn.id or newest[0].status != "running":
            st.rerun()
        sidebar.small("An answer is being written ...")
        if st.button("Do not wait for it"):
            store.interrupt_turns(session_id, older_than=0)
            st.rerun()

    wait()


def stop(store: HistoryStore, session_id: str, turn: Turn) -> None:
    """End an answer that is written in the background."""
    store.stop_turn(session_id, turn.id)


# --- what was said


def show_exchange(store: HistoryStore, conversation: Conversation, exchange: Exchange) -> None:
    """Draw a question and its answer, with what may be done with them."""
    turn, is_last = exchange.turn, exchange is conversation.exchanges[-1]
    key = str(turn.id) if turn else str(exchange.messages[0].id)
    if exchange.question:
        with st.chat_message("human"):
            if st.session_state.get("editing") == key:
                show_editor(store, conversation.session_id, exchange)
            else:
                st.markdown(exchange.question)
    if exchange.answer:
        with st.chat_message("ai"):
            st.markdown(exchange.answer)
    if conversation.running is not None:
        return
    if turn is not None and turn.status != "completed":
        sidebar.small({"failed": "This answer failed.", "interrupted": "This answer was stopped."}.get(turn.status, ""))
    with st.container(horizontal=True, key=f"actions-{key}", gap="small", vertical_alignment="center"):
        if len(exchange.versions) > 1:
            show_pager(store, conversation.session_id, exchange, key)
        if turn is not None and exchange.answer:
            show_feedback(store, conversation.session_id, turn, exchange)
        if exchange.question and exchange.messages:
            st.button("Edit", key=f"edit-{key}", type="tertiary", on_click=start_editing, args=[key])
        if exchange.question and is_last:
            args = [store, conversation.session_id, exchange, exchange.question]
            st.button("Regenerate", key=f"regenerate-{key}", type="tertiary", on_click=ask_again, args=args)
        if turn is not None and exchange.answer:
            show_details(store, turn, key)


def start_editing(key: str) -> None:
    """Show the editor in the place of a question."""
    st.session_state["editing"] = key


def ask_again(store: HistoryStore, session_id: str, exchange: Exchange, question: str) -> None:
    """Ask a question in the place of one that was asked; what was there becomes another version of it."""
    if exchange.messages:
        store.rewind_session(session_id, before=exchange.messages[0])
    st.session_state["pending"] = question
    st.session_state.pop("editing", None)


def show_editor(store: HistoryStore, session_id: str, exchange: Exchange) -> None:
    """Let a question be changed."""
    text = st.text_area("Edit your question", exchange.question)
    with st.container(horizontal=True):
        if st.button("Send") and text.strip():
            ask_again(store, session_id, exchange, text)
            st.rerun()
        if st.button("Cancel"):
            st.session_state.pop("editing", None)
            st.rerun()


def show_pager(store: HistoryStore, session_id: str, exchange: Exchange, key: str) -> None:
    """Go through the versions of a question."""
    here, count = exchange.versions.index(None), len(exchange.versions)

    def switch(version: Any) -> None:
        store.switch_to(session_id, version)

    def button(label: str, icon: str, to: int) -> None:
        chosen = exchange.versions[to] if 0 <= to < count else None
        args = None if chosen is None else [chosen]
        key_of = f"{label}-{key}"
        st.button(label, key_of, icon=icon, type="tertiary", disabled=not args, on_click=switch, args=args)

    button("Previous version", ":material/chevron_left:", here - 1)
    st.markdown(f"{here + 1}/{count}", width="content")
    button("Next version", ":material/chevron_right:", here + 1)


def show_feedback(store: HistoryStore, session_id: str, turn: Turn, exchange: Exchange) -> None:
    """Thumbs and a comment: kept with the turn, and sent to LangSmith where it has a trace."""
    given = exchange.feedback
    score = None if given is None else given.score
    key = f"thumbs-{turn.id}"

    def rate() -> None:
        thumb = st.session_state[key]
        comment = None if given is None else given.comment
        store.add_feedback(session_id, turn, KEY, score=thumb, comment=comment)

    st.feedback("thumbs", key=key, default=None if score is None else int(score), on_change=rate)
    with st.popover("Comment", type="tertiary", key=f"comment-{turn.id}"), st.form(f"form-{turn.id}", border=False):
        text = st.text_area("Comment", (given and given.comment) or "")
        if st.form_submit_button("Keep comment"):
            store.add_feedback(session_id, turn, KEY, score=score, comment=text)
            st.toast("Thank you.")


def show_details(store: HistoryStore, turn: Turn, key: str) -> None:
    """What an answer was made of: documents, tools, tokens, and its trace."""
    with st.popover("Details", type="tertiary", key=f"details-{key}"):
        if turn.documents:
            st.markdown("**Documents**")
            for document in turn.documents:
                sidebar.small(sidebar.plain(f"{document.get('source')}: {document.get('excerpt', '')}"))
        if tools := turn.metadata.get("tools"):
            st.markdown("**Tools**")
            sidebar.small(", ".join(f"{tool['name']} ({tool.get('seconds', 0):.3f} s)" for tool in tools))
        st.markdown("**Used**")
        tokens = "unknown" if turn.total_tokens is None else f"{turn.total_tokens:,}"
        sidebar.small(f"Model {turn.model or 'unknown'}, tokens: {tokens}")
        if turn.trace_id and st.button("Find the trace", key=f"trace-{key}"):
            try:
                st.link_button("Open in LangSmith", store.trace_url(turn) or "")
            except HistoryError as error:
                st.warning(str(error))


# --- the conversation as a whole


def show_menu(store: HistoryStore, conversation: Conversation) -> None:
    """Rename, pin, archive, delete and export."""
    id = conversation.session_id
    session = store.session(id)
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.subheader(sidebar.plain(session.title or "Untitled"))
    with right.popover("Manage", icon=":material/more_vert:"):
        with st.form(f"rename-{id}", border=False):
            title = st.text_input("Title", session.title or "")
            if st.form_submit_button("Rename"):
                store.update_session(id, title=title.strip() or None)
                st.rerun()
        if st.button("Unpin" if session.pinned else "Pin"):
            store.update_session(id, pinned=not session.pinned)
            st.rerun()
        if st.button("Take out of the archive" if session.archived else "Archive"):
            store.update_session(id, archived=not session.archived)
            st.rerun()
        for label, format, ending in (("Markdown", "markdown", "md"), ("JSON", "json", "json")):
            data = lambda format=format: export(store, id, format)  # noqa: E731
            st.download_button(f"Export {label}", data, f"conversation.{ending}", on_click="ignore")
        st.button("Delete", type="primary", on_click=delete, args=[store, id])
    sidebar.small(f"{session.message_count} messages, {used(store, id)}")


def delete(store: HistoryStore, session_id: str) -> None:
    """Delete a conversation, and begin another."""
    store.delete_session(session_id)
    sidebar.open_session(None)
