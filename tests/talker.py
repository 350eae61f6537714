"""A process that holds turns with an outbox: `python -m tests.talker <conninfo> <outbox> <session> <turns>`.

Each turn reads before a line from standard input lets its model answer, and saves after it; it prints "asked N" and
"done N". After the last it waits to be killed.
"""

from __future__ import annotations

import sys
import time

from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import HistoryStore


def main(conninfo: str, outbox: str, session: str, turns: str) -> None:
    store = HistoryStore.from_postgres(conninfo, outbox=outbox, deadline=0.5)
    histories = [store.get_session_history(f"{session}-{n % 2}") for n in range(int(turns))]
    for n, history in enumerate(histories):
        assert isinstance(history.messages, list)
        print(f"asked {n}", flush=True)
    sys.stdin.readline()
    for n, history in enumerate(histories):
        history.add_messages([HumanMessage(f"q{n}"), AIMessage(f"a{n}")])
        print(f"done {n}", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
