"""A process that writes turns to one session: `python -m tests.writers <way> <target> <session> <writer> <turns>`.

It prints the number of each turn that was acknowledged, and goes on through whatever happens to the database.
"""

from __future__ import annotations

import asyncio
import sys

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_supabase_history import HistoryStore, Unavailable
from tests import servers


def turn_messages(writer: str, number: int) -> list[BaseMessage]:
    """A turn of four messages that name their writer, turn and place."""
    call = {"name": "f", "args": {}, "id": f"{writer}-{number}", "type": "tool_call"}
    return [
        HumanMessage(f"{writer}/{number}/0"),
        AIMessage(f"{writer}/{number}/1", tool_calls=[call]),
        ToolMessage(f"{writer}/{number}/2", tool_call_id=f"{writer}-{number}"),
        AIMessage(f"{writer}/{number}/3"),
    ]


def check_whole(texts: list[str]) -> set[tuple[str, int]]:
    """Assert that no turn is doubled, split or half there, and that each writer's are in order; give the turns."""
    seen: list[tuple[str, int]] = []
    assert len(texts) % 4 == 0
    for start in range(0, len(texts), 4):
        writer, number, _ = texts[start].split("/")
        assert texts[start : start + 4] == [f"{writer}/{number}/{n}" for n in range(4)]
        seen.append((writer, int(number)))
    assert len(set(seen)) == len(seen)
    for writer in {w for w, _ in seen}:
        numbers = [n for w, n in seen if w == writer]
        assert numbers == sorted(numbers)
    return set(seen)


def open_store(way: str, target: str, deadline: float = 30) -> HistoryStore:
    if way.startswith("psycopg"):
        return HistoryStore.from_postgres(target, deadline=deadline, pool_size=2)
    return HistoryStore.from_supabase(target, servers.SECRET_KEY, deadline=deadline, pool_size=2)


def main(way: str, target: str, session: str, writer: str, turns: str) -> None:
    with open_store(way, target) as store:

        async def awrite() -> None:
            for number in range(int(turns)):
                await store.aappend(session, turn_messages(writer, number), idempotency_key=f"{writer}-{number}")
                print(number, flush=True)

        if way.endswith("async"):
            asyncio.run(awrite())
            return
        for number in range(int(turns)):
            while True:
                try:
                    store.append(session, turn_messages(writer, number), idempotency_key=f"{writer}-{number}")
                    break
                except Unavailable:
                    continue  # the key makes trying again safe
            print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
