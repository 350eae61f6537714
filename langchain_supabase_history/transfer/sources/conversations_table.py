"""Rows of a table `conversations`, as applications keep it: a list of messages with what is known of their turns."""

from __future__ import annotations

from typing import Any, Final

from .building import Found, FoundConversation, read_time
from .chat_messages import read_messages


def read_table_row(value: dict[str, Any], where: str) -> FoundConversation:
    """A row, or a file that holds one."""
    metadata = value.get("metadata") if isinstance(value.get("metadata"), dict) else {}
    kept = {"analytics": value["analytics"]} if value.get("analytics") else {}
    messages = read_messages(value["messages"])
    questions = sum(message.type == "human" for message in messages)
    turns = _turns(_list(value.get("tokens_history")), _list(value.get("retriever_audits")), questions)
    return FoundConversation(
        source="conversations-table",
        session_id=str(value["conversation_id"]),
        user_id=str(value["user_id"]) if value.get("user_id") else None,
        messages=[Found(message) for message in messages],
        created_at=read_time(value.get("created_at") or value.get("timestamp")),
        updated_at=read_time(value.get("timestamp")),
        metadata={**(metadata or {}), **kept},
        turns=turns,
    )


_COUNTS: Final = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
    "total_tokens": ("total_tokens", "total"),
    "total_cost": ("total_cost", "total_custo", "cost", "custo"),
}
_TURN_NUMBERS: Final = ("turn", "turn_id", "turno_id", "turno")


def _turns(history: list[Any], audits: list[Any], turns: int) -> list[dict[str, Any]]:
    """What the lists of such a row say about its turns. Whatever an entry holds is kept with its turn."""
    found: list[dict[str, Any]] = [{} for _ in range(turns)]
    if not found:
        return found
    for n, entry in enumerate(history):
        turn = found[min(_turn_number(entry, n), turns - 1)]
        turn.setdefault("metadata", {}).setdefault("tokens_history", []).append(entry)
        for name, keys in _COUNTS.items():
            counts = [entry[key] for key in keys if _is_count(entry, key)]
            if counts:
                turn[name] = counts[0] if name == "total_cost" else int(counts[0])
    for n, entry in enumerate(audits):
        place = _turn_number(entry, n if len(audits) == turns else turns - 1)
        document = entry if isinstance(entry, dict) else {"audit": entry}
        found[min(place, turns - 1)].setdefault("documents", []).append(document)
    return found


def _turn_number(entry: Any, place: int) -> int:
    if isinstance(entry, dict):
        for name in _TURN_NUMBERS:
            if type(entry.get(name)) is int and entry[name] >= 1:
                return int(entry[name]) - 1
    return place


def _is_count(entry: Any, key: str) -> bool:
    value = entry.get(key) if isinstance(entry, dict) else None
    return isinstance(value, (int, float)) and type(value) is not bool and 0 <= value < 2**53


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []
