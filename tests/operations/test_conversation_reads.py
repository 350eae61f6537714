"""What is done to the end of a conversation of 100,000 messages reads no more than at the end of a short one."""

from __future__ import annotations

import pytest

from tests import servers
from tests.sql.test_page_reads import Cell, filled, pages

# Each call on session 1, taken back, and how many pages it may read.
CALLS = {
    "rewind": ("chat_history_rewind_session('1', 99997)", 500),
    "rewind within a turn": ("chat_history_rewind_session('1', 99999)", 500),
    "switch": ("chat_history_switch_to('1', (chat_history_rewind_session('1', 99997) ->> 'id')::uuid)", 900),
    "pop": ("chat_history_pop_messages('1', 2)", 500),
    "alternatives": ("chat_history_list_alternatives('1')", 60),
    "fork": ("chat_history_fork_session('1', 'new', 8)", 900),
    "update": ('chat_history_update_session(\'1\', \'{"title": "x", "metadata": {"a": 1}}\')', 150),
    "sessions": ("chat_history_list_sessions()", 900),
    "sessions, by title": ("chat_history_list_sessions(sort => 'title')", 900),
}


@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "unknown"])
def test_a_call_reads_few_pages(pg: servers.Postgres, analyzed: bool) -> None:
    with filled(pg, Cell("1x100000", servers.POSTGRES_VERSION, analyzed, vacuumed=False)) as conn:
        read = {name: max([pages(conn, call) for _ in range(8)][1:]) for name, (call, _) in CALLS.items()}
    assert {name: n for name, n in read.items() if n > CALLS[name][1]} == {}, read
