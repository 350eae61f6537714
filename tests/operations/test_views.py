"""Views for plain SQL give what the methods give, to whom they give it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import HistoryStore, Turn

SHOWN = [
    "session_id",
    "title",
    "tags",
    "pinned",
    "archived",
    "metadata",
    "created_at",
    "updated_at",
    "message_count",
    "turn_count",
    "total_tokens",
    "excerpt",
    "forked_from",
]


@pytest.fixture
def conn(shared_database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(shared_database, autocommit=True) as conn:
        yield conn


def fill(user: HistoryStore) -> None:
    for name in ("kept", "cleared", "deleted", "forked"):
        user.append(
            name, [HumanMessage(f"question of {name}"), AIMessage("answer")], turn=Turn(uuid.uuid4(), total_tokens=3)
        )
    user.append("kept", [HumanMessage("failed")], turn=Turn(uuid.uuid4(), status="failed"))
    user.update_session("kept", tags=["x"], metadata={"a": 1}, pinned=True)
    user.rewind_session("forked", before=2)
    user.fork_session("kept", "copy", upto=2)
    user.clear("cleared")
    user.delete_session("deleted")


def test_the_views_give_what_the_methods_give(store: HistoryStore, conn: psycopg.Connection[Any], session: str) -> None:
    user = store.for_user(session)
    fill(user)
    rows = conn.execute(
        f"select {', '.join(SHOWN)} from chat_history_session_list "
        "where user_id = %s order by updated_at desc".encode(),
        [session],
    ).fetchall()
    expected = [tuple(getattr(s, name) for name in SHOWN) for s in user.sessions()]
    assert [tuple(value or {} if n == 5 else value for n, value in enumerate(row)) for row in rows] == expected
    for found in user.sessions():
        shown = conn.execute(
            "select id, position, turn_id, type, text, created_at from chat_history_message_list "
            "where user_id = %s and session_id = %s order by position",
            [session, found.session_id],
        ).fetchall()
        assert shown == [
            (m.id, m.position, m.turn_id, m.message.type, m.message.text, m.created_at)
            for m in user.messages(found.session_id)
        ]
        in_context = conn.execute(
            "select text from chat_history_message_list where user_id = %s and session_id = %s and in_context "
            "order by position",
            [session, found.session_id],
        ).fetchall()
        assert [text for (text,) in in_context] == [m.text for m in user.load(found.session_id)]
    hidden = "select from chat_history_message_list where user_id = %s and session_id = any(%s)"
    assert conn.execute(hidden, [session, ["cleared", "deleted"]]).fetchall() == []


def test_a_user_sees_no_others(
    store: HistoryStore, conn: psycopg.Connection[Any], session: str, users: list[tuple[str, str]]
) -> None:
    store.for_user(session).append("s", [HumanMessage("of another")])
    store.as_user(users[0][1]).append(session, [HumanMessage("of ada")])
    for view in ("chat_history_session_list", "chat_history_message_list"):
        with conn.transaction(force_rollback=True):
            conn.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": users[0][0]})])
            conn.execute("set local role authenticated")
            seen = conn.execute(f"select distinct user_id from {view}".encode()).fetchall()
        assert seen == [(users[0][0],)]
