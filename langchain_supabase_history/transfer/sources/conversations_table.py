"""Rows of a table `conversations`, as applications keep it: a list of messages with what is known of their turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ...core.values import loads
from .building import Found, FoundBranch, FoundConversation, key_of, read_time
from .chat_messages import read_messages


def read_table_row(value: dict[str, Any], where: str) -> FoundConversation:
    """A row, or a file that holds one."""
    value = {**value, **{name: _parsed(value.get(name)) for name in _JSON}}
    metadata = value["metadata"] if isinstance(value["metadata"], dict) else {}
    kept = {"analytics": value["analytics"]} if value["analytics"] else {}
    if value["metadata"] and not metadata:
        kept["metadata"] = value["metadata"]
    messages = read_messages(value["messages"])
    questions = sum(message.type == "human" for message in messages)
    turns = _turns(_list(value["tokens_history"]), _list(value["retriever_audits"]), questions)
    return FoundConversation(
        source="conversations-table",
        session_id=str(value["conversation_id"]),
        user_id=str(value["user_id"]) if value.get("user_id") else None,
        messages=[Found(message) for message in messages],
        created_at=read_time(value.get("created_at") or value.get("timestamp")),
        updated_at=read_time(value.get("timestamp")),
        metadata={**metadata, **kept},
        turns=turns,
    )


class Saves:
    """Puts together what an application has saved of one conversation: the whole list, at each save.

    The latest list is the conversation; what the others have in its place are alternatives. A list that ends earlier
    than another takes nothing away from it. The same holds for what is written through the view `conversations`.
    """

    def __init__(self) -> None:
        self._latest: FoundConversation | None = None
        self._lists: list[tuple[list[str], Sequence[Found]]] = []  # the conversation, then what else there was

    def add(self, save: FoundConversation) -> None:
        """Add a save that is older than those before."""
        keys = [key_of(item.message, position) for position, item in enumerate(save.messages, 1)]
        if self._latest is None:
            self._latest = save
        elif save.created_at and self._latest.created_at:
            self._latest.created_at = min(save.created_at, self._latest.created_at)
        for n, (known, _) in enumerate(self._lists):
            if keys == known[: len(keys)]:
                return
            if known == keys[: len(known)]:
                self._lists[n] = (keys, save.messages)
                if n == 0:
                    self._latest.turns = save.turns
                return
        self._lists.append((keys, save.messages))

    def conversation(self) -> FoundConversation | None:
        """All of it; None where there was no save."""
        if self._latest is None:
            return None
        self._latest.messages = self._lists[0][1]
        self._latest.branches = self._branches()
        return self._latest

    def _branches(self) -> list[FoundBranch]:
        found = []
        placed = [(self._lists[0][0], self._lists[0][0])]  # of each list what its messages say, and their keys
        used = set(self._lists[0][0])
        for said, messages in self._lists[1:]:
            alike, before = max(((_alike(said, other), keys) for other, keys in placed), key=lambda pair: pair[0])
            keys = before[:alike]
            for said_here in said[alike:]:  # the same may have been said in this place behind something else
                keys.append(f"{said_here}\x00{keys[-1] if keys else ''}" if said_here in used else said_here)
            used.update(keys)
            placed.append((said, keys))
            rest = [
                Found(item.message, key, item.created_at)
                for item, key in zip(messages[alike:], keys[alike:], strict=True)
            ]
            found.append(FoundBranch(keys[alike - 1] if alike else None, rest))
        return found


def _alike(one: list[str], other: list[str]) -> int:
    """How many messages two lists begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


_JSON: Final = ("messages", "metadata", "analytics", "tokens_history", "retriever_audits")


def _parsed(value: Any) -> Any:
    """What a column holds; where it is of type text, the JSON in it."""
    try:
        return loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


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
