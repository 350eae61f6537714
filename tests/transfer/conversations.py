"""Conversations of every shape for the tests of export and import, and a summary that two copies must share."""

from __future__ import annotations

import io
import uuid
from decimal import Decimal
from typing import Any

import orjson
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_supabase_history import HistoryStore, Turn

CALL = {"name": "search", "args": {"q": "x"}, "id": "c1", "type": "tool_call"}


def fill(store: Any, prefix: str) -> list[str]:
    """Store conversations of every shape, and return their names, the oldest first."""
    names = [f"{prefix}-{name}" for name in ("plain", "tools", "branches", "cleared", "failed", "labelled", "titled")]
    plain, tools, branches, cleared, failed, labelled, titled = names
    store.append(plain, [HumanMessage("hello"), AIMessage("hi", usage_metadata=usage(3))])
    store.append(
        tools,
        [
            SystemMessage("be brief"),
            HumanMessage([{"type": "text", "text": "look it up"}]),
            AIMessage("", tool_calls=[CALL]),
            ToolMessage("42", tool_call_id="c1", artifact={"price": Decimal("1.10"), "raw": b"\xff"}),
            AIMessage("It is 42. \x00 \ud800 é 😀"),
        ],
    )
    first = store.append(branches, [HumanMessage("one"), AIMessage("first")])
    store.add_feedback(branches, first[0], "helpful", score=1, comment="yes")
    store.add_feedback(branches, first[1], "kind", value={"a": "b"})
    store.append(branches, [HumanMessage("two"), AIMessage("second")])
    store.rewind_session(branches, before=4)
    store.append(branches, [AIMessage("second, better")])
    store.rewind_session(branches, before=2)
    store.append(branches, [AIMessage("another first"), HumanMessage("=1+1")])
    store.append(cleared, [HumanMessage("gone"), AIMessage("gone too")])
    store.clear(cleared)
    store.append(cleared, [HumanMessage("begun again"), AIMessage("fine")])
    turn = Turn(id=uuid.uuid4(), status="failed", error="no answer", model="m", total_tokens=7, total_cost=0.25)
    store.append(failed, [HumanMessage("asked")], turn=turn)
    store.append(labelled, [HumanMessage("labelled")])
    store.update_session(
        labelled, title="A title", tags=["a", "b"], metadata={"k": {"n": 1.5}}, pinned=True, archived=True
    )
    store.append(titled, [HumanMessage("q"), AIMessage("a")])
    return names


def usage(total: int) -> Any:
    return {"input_tokens": 1, "output_tokens": total - 1, "total_tokens": total}


def exported(store: Any, **options: Any) -> bytes:
    """What an export of a store writes."""
    out = io.BytesIO()
    store.export_sessions(out, **{"archived": None, **options} if "session_ids" not in options else options)
    return out.getvalue()


def parts(data: bytes) -> list[dict[str, Any]]:
    """The parts in an exported file, without whose they are."""
    found = [orjson.loads(line) for line in data.splitlines()]
    assert found.pop(0)["kind"] == "header"
    for part in found:
        part.pop("user_id", None)
    return found


def read_back(store: HistoryStore, name: str) -> Any:
    """A conversation as a store's readers see it."""
    session = store.session(name)
    return (
        session.title,
        session.tags,
        session.metadata,
        session.message_count,
        session.turn_count,
        session.total_tokens,
        [(m.id, m.position, m.created_at, m.turn_id, m.message) for m in store.messages(name, limit=1000)],
        store.turns(name, limit=1000).items,
        [(a.id, a.position, a.message_count, a.excerpt, a.follows) for a in store.alternatives(name)],
        store.load(name),
    )
