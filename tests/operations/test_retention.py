"""Retention and erasure: what prune and delete_user remove, what they leave, and whom they leave alone."""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import (
    Conflict,
    Forbidden,
    HistoryStore,
    InvalidInput,
    NotFound,
    Pruned,
    Turn,
)
from langchain_supabase_history.commands.main import main
from langchain_supabase_history.core.arguments import message_ids
from langchain_supabase_history.errors import HistoryError
from langchain_supabase_history.operations.messages import load_call
from tests import servers
from tests.conftest import Api

SECRET = "the content that must go"
QA = [HumanMessage(f"question: {SECRET}"), AIMessage(f"answer: {SECRET}")]
DAY = timedelta(days=1)
ROWS = ("messages", "turns", "feedback")


def rows(conninfo: str, user_id: str, table: str) -> list[str]:
    """A user's rows of a table, as the owner of the tables sees them, with the transactions that touched them."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        query = f"select t::text, xmin::text, xmax::text from chat_history_{table} t where user_id = %s order by 1"
        return [str(row) for row in conn.execute(query.encode(), [user_id])]


def counted(conninfo: str, user_id: str) -> tuple[int, ...]:
    return tuple(len(rows(conninfo, user_id, table)) for table in ROWS)


def age(conninfo: str, user_id: str, name: str, days: int = 100) -> None:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        done = conn.execute(
            "update chat_history_sessions set updated_at = updated_at - make_interval(days => %s) "
            "where user_id = %s and session_id = %s",
            [days, user_id, name],
        )
        assert done.rowcount == 1


def talk(api: Api, name: str, turns: int = 2) -> None:
    """Turns of two messages, with feedback on each first one."""
    for _ in range(turns):
        turn = Turn(uuid.uuid4(), model=SECRET, error=SECRET, documents=[{"id": SECRET}], metadata={"a": SECRET})
        stored = api.append(name, QA, turn=turn)
        api.add_feedback(name, stored[0], "helpful", score=1, comment=SECRET)


@pytest.fixture
def user_id(session: str) -> str:
    return f"user-{session}"


@pytest.fixture
def user(api: Api, user_id: str) -> Api:
    """The store as one user's, whom no other test has, for prune goes over all sessions that it sees."""
    found: Api = api.for_user(user_id)
    return found


# --- prune


def test_what_clear_hid_is_removed(user: Api, user_id: str, session: str, shared_database: str) -> None:
    talk(user, session, 3)
    user.clear(session)
    user.append(session, [HumanMessage("after")])
    assert counted(shared_database, user_id) == (7, 4, 3)
    told = user.prune()
    assert told == Pruned(0, 0, 6, 3, 3, dry_run=True)
    assert counted(shared_database, user_id) == (7, 4, 3)
    assert user.prune(dry_run=False) == Pruned(0, 0, 6, 3, 3)
    assert counted(shared_database, user_id) == (1, 1, 0)
    assert user.prune(dry_run=False) == Pruned(0, 0, 0, 0, 0)
    assert [m.text for m in user.load(session)] == ["after"]
    assert user.append(session, [AIMessage("joins")])[0].position == 8
    with pytest.raises(Conflict, match="cleared or deleted"):
        user.append(session, QA, epoch=0)


def test_idle_sessions_become_tombstones_without_content(
    user: Api, user_id: str, session: str, shared_database: str
) -> None:
    ids = message_ids(2)
    talk(user, "idle")
    user.append("idle", QA, ids=ids)
    talk(user, "busy")
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute(
            "update chat_history_sessions set title = %s, metadata = json_build_object('a', %s::text) "
            "where user_id = %s",
            [SECRET, SECRET, user_id],
        )
    age(shared_database, user_id, "idle")
    assert user.prune(idle=101 * DAY) == Pruned(0, 0, 0, 0, 0, dry_run=True)
    assert user.prune(idle=99 * DAY) == Pruned(1, 0, 6, 3, 2, dry_run=True)
    assert user.prune(idle=99 * DAY, dry_run=False) == Pruned(1, 0, 6, 3, 2)
    assert counted(shared_database, user_id) == (4, 2, 2)
    with pytest.raises(NotFound):
        user.session("idle")
    assert user.load("idle") == []
    (tombstone,) = (row for row in rows(shared_database, user_id, "sessions") if "idle" in row)
    assert SECRET not in tombstone
    with psycopg.connect(shared_database, autocommit=True) as conn:
        found = conn.execute(
            "select title, metadata, message_count, last_turn_id, deleted_at is not null, epoch, "
            "cleared_position = last_position, cleared_turn = last_turn "
            "from chat_history_sessions where user_id = %s and session_id = 'idle'",
            [user_id],
        ).fetchone()
    assert found == (None, None, 0, None, True, 1, True, True)
    for late in ({}, {"ids": ids}):
        with pytest.raises(Conflict, match="cleared or deleted"):
            user.append("idle", QA, epoch=0, **late)
    assert user.load("idle") == []
    assert len(user.load("busy")) == 4
    assert user.session("busy").epoch == 0
    user.append("idle", [HumanMessage("anew")])
    assert [m.text for m in user.load("idle")] == ["anew"]
    assert user.prune(idle=DAY, dry_run=False) == Pruned(0, 0, 0, 0, 0)


def test_the_newest_messages_are_kept_in_whole_turns(
    user: Api, user_id: str, session: str, shared_database: str
) -> None:
    talk(user, session, 10)
    before = user.session(session)
    assert user.prune(keep_messages=20, dry_run=False) == Pruned(0, 0, 0, 0, 0)
    told = user.prune(keep_messages=5)
    assert user.prune(keep_messages=5, dry_run=False) == Pruned(0, 1, 14, 7, 7)
    assert told == Pruned(0, 1, 14, 7, 7, dry_run=True)
    assert counted(shared_database, user_id) == (6, 3, 3)
    assert [m.position for m in user.messages(session)] == [15, 16, 17, 18, 19, 20]
    assert [m.position for m in user.messages(session, newest_first=True, limit=2)] == [20, 19]
    assert [t.ordinal for t in user.turns(session)] == [8, 9, 10]
    assert user.load(session) == QA * 3
    after = user.session(session)
    assert (after.message_count, after.last_position) == (6, 20)
    assert (after.epoch, after.revision) == (before.epoch + 1, before.revision + 1)
    assert after.updated_at == before.updated_at  # to be pruned is no sign of life
    assert user.prune(keep_messages=5, dry_run=False) == Pruned(0, 0, 0, 0, 0)
    assert user.session(session) == after
    with pytest.raises(Conflict, match="cleared or deleted"):
        user.append(session, QA, epoch=before.epoch)
    assert user.append(session, [AIMessage("joins the last")])[0].turn_id == user.turns(session).items[-1].id


def test_a_turn_without_end_is_cut(user: Api, session: str) -> None:
    user.append(session, [HumanMessage("q"), *(AIMessage(str(n)) for n in range(30))])
    assert user.prune(keep_messages=5, dry_run=False) == Pruned(0, 1, 26, 0, 0)
    assert [m.text for m in user.load(session)] == ["25", "26", "27", "28", "29"]
    assert user.append(session, [AIMessage("30")])[0].position == 32
    assert len(user.turns(session)) == 1


def test_a_process_that_keeps_what_it_read_is_told_to_read_again(user: Api, session: str) -> None:
    history = user.store.get_session_history(session)
    talk(user, session, 3)
    loaded = user.store.execute(load_call(user.store.scope, session))
    user.prune(keep_messages=2, dry_run=False)
    assert user.store.execute(load_call(user.store.scope, session)).revision == loaded.revision + 1
    assert len(history.messages) == 2


def test_no_batch_removes_more_than_it_may(user: Api, user_id: str, shared_database: str) -> None:
    for name in ("a", "b", "c"):
        talk(user, name, 10)
        user.clear(name)
    talk(user, "idle", 10)
    age(shared_database, user_id, "idle")
    sums: list[Pruned] = []
    told = user.prune(idle=DAY, batch=7)
    done = user.prune(idle=DAY, dry_run=False, batch=7, progress=sums.append)
    assert done == sums[-1] == Pruned(1, 0, 80, 40, 40)
    assert (told.sessions, told.messages, told.turns, told.feedback) == (1, 80, 40, 40)
    sizes = [s.sessions + s.trimmed + s.messages + s.turns for s in sums]
    steps = [after - before for before, after in zip([0, *sizes], sizes, strict=False)]
    assert len(steps) >= 121 / 8
    assert max(steps) <= 8  # one more: a session may be deleted with the last of a batch
    assert counted(shared_database, user_id) == (0, 0, 0)


def test_a_dry_run_touches_no_row(user: Api, user_id: str, shared_database: str) -> None:
    for name in ("cleared", "idle", "long"):
        talk(user, name, 5)
    user.clear("cleared")
    age(shared_database, user_id, "idle")
    before = {table: rows(shared_database, user_id, table) for table in ("sessions", *ROWS)}
    told = user.prune(idle=DAY, keep_messages=3)
    assert told == Pruned(1, 1, 10 + 10 + 6, 5 + 5 + 3, 5 + 5 + 3, dry_run=True)
    assert {table: rows(shared_database, user_id, table) for table in before} == before


def test_a_running_turn_keeps_its_place(user: Api, session: str) -> None:
    running = Turn(uuid.uuid4(), status="running")
    talk(user, session, 2)
    user.append(session, [], turn=running)
    talk(user, session, 8)
    user.prune(keep_messages=2, dry_run=False)
    assert running.id in [t.id for t in user.turns(session)]
    user.append(session, [HumanMessage("q"), AIMessage("late")], turn=Turn(running.id))
    assert [m.text for m in user.load(session)][-1] == "late"


def test_a_session_in_use_is_passed_over_and_nobody_waits(user: Api, user_id: str, shared_database: str) -> None:
    for name in ("free", "in use"):
        talk(user, name)
        age(shared_database, user_id, name)
    with psycopg.connect(shared_database) as writer:
        writer.execute(
            "select from chat_history_sessions where user_id = %s and session_id = 'in use' for update", [user_id]
        )
        writer.execute("set local lock_timeout = '5s'")
        assert user.prune(idle=DAY, dry_run=False).sessions == 1
        assert user.session("in use").message_count == 4
        writer.execute(  # it is written to, hence idle no more
            "update chat_history_sessions set updated_at = clock_timestamp() "
            "where user_id = %s and session_id = 'in use'",
            [user_id],
        )
    assert user.prune(idle=DAY, dry_run=False).sessions == 0
    assert user.session("in use").message_count == 4
    with pytest.raises(NotFound):
        user.session("free")


def test_writers_are_not_harmed(user: Api, user_id: str, shared_database: str) -> None:
    names, turns, errors = ["a", "b", "c"], 25, []
    done = threading.Event()

    def write(name: str) -> None:
        for n in range(turns):
            user.append(name, [HumanMessage(f"{n} q"), AIMessage(f"{n} a")])

    def prune() -> None:
        while not done.is_set():
            try:
                user.prune(keep_messages=4, dry_run=False, batch=3)
            except HistoryError as error:
                errors.append(error)
                return

    with ThreadPoolExecutor(4) as pool:
        pruning = pool.submit(prune)
        list(pool.map(write, names))
        done.set()
        pruning.result()
    assert errors == []
    user.prune(keep_messages=4, dry_run=False)
    for name in names:
        assert [m.text for m in user.load(name)] == [f"{n} {x}" for n in (turns - 2, turns - 1) for x in "qa"]
        assert user.session(name).last_position == 2 * turns
    check_whole(shared_database, user_id)


def check_whole(conninfo: str, user_id: str) -> None:
    """The counters are those of the rows, and every visible message has its turn."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        wrong = conn.execute(
            "select s.session_id, s.message_count, count(m.position), count(t.id) "
            "from chat_history_sessions s "
            "left join chat_history_messages m on m.session_key = s.session_key and m.position > s.cleared_position "
            "left join chat_history_turns t on t.session_key = m.session_key and t.id = m.turn_id "
            "where s.user_id = %s group by s.session_key "
            "having s.message_count <> count(m.position) or count(m.position) <> count(t.id)",
            [user_id],
        ).fetchall()
    assert wrong == []


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_done_before_a_pruned_session_is_whole(
    postgres_store: HistoryStore, user_id: str, shared_database: str, seed: int
) -> None:
    choose = random.Random(seed)
    user = postgres_store.for_user(user_id)
    turns = [Turn(uuid.uuid4(), status=choose.choice(["completed", "failed", "running"])) for _ in range(6)]
    for _ in range(40):
        name = choose.choice("ab")
        step = choose.random()
        messages: Any = choose.choice([QA, QA[:1], [AIMessage("more")], [*QA, *QA]])
        if step < 0.35:
            with contextlib.suppress(Conflict):  # of a turn that was cleared
                user.append(name, messages, turn=choose.choice(turns))  # in any order, long after they were begun
        elif step < 0.7:
            user.append(name, messages)
        elif step < 0.75:
            user.clear(name)
        elif step < 0.8:
            user.append(name, [], turn=choose.choice(turns))
        elif step < 0.85:
            user.delete_session(name)
        else:
            keep = choose.choice([None, 1, 2, 3, 10])
            told = user.prune(keep_messages=keep)
            newest = {n: [m.id for m in user.messages(n, newest_first=True, limit=keep or 100)] for n in "ab"}
            done = user.prune(keep_messages=keep, dry_run=False, batch=choose.choice([1, 5, 500]))
            assert (done.messages, done.turns, done.feedback) == (told.messages, told.turns, told.feedback)
            for n, kept in newest.items():
                left = [m.id for m in user.messages(n, newest_first=True, limit=1000)]
                assert left[: len(kept)] == kept
                assert keep is None or len(left) <= 2 * keep + 1
            check_whole(shared_database, user_id)
    for name in "ab":
        position = user.append(name, [AIMessage("joins")])[0].position
        assert user.messages(name, newest_first=True, limit=1).items[0].position == position
    check_whole(shared_database, user_id)


@pytest.mark.parametrize(
    "bad",
    [
        {"idle": 90},
        {"idle": timedelta(0)},
        {"idle": -DAY},
        {"idle": timedelta.max},
        {"keep_messages": 0},
        {"keep_messages": True},
        {"keep_messages": 2**31},
        {"dry_run": None},
        {"dry_run": 0},
        {"batch": 0},
        {"batch": 10_001},
        {"progress": "no"},
    ],
)
def test_bad_limits_are_refused(user: Api, bad: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        user.prune(**bad)


# --- delete_user


def test_a_deleted_user_leaves_tombstones_only(
    api: Api, user: Api, user_id: str, session: str, shared_database: str
) -> None:
    other = api.for_user(f"other-{session}")
    for name in ("one", "two", "cleared", "deleted", session):
        talk(user, name, 3)
    talk(other, session, 3)
    user.clear("cleared")
    user.delete_session("deleted")
    assert api.delete_user(user_id) == Pruned(4, 0, 24, 12, 12)
    assert api.delete_user(user_id) == Pruned(0, 0, 0, 0, 0)
    assert counted(shared_database, user_id) == (0, 0, 0)
    tombstones = rows(shared_database, user_id, "sessions")
    assert len(tombstones) == 5
    assert SECRET not in str(tombstones)
    with psycopg.connect(shared_database, autocommit=True) as conn:  # whatever tables later migrations bring
        tables = [
            name
            for (name,) in conn.execute(
                "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'user_id' "
                "where c.relkind in ('r', 'p') and c.relname like 'chat\\_history\\_%'"
            )
        ]
        assert {f"chat_history_{name}" for name in ("sessions", *ROWS)} <= set(tables)
        for table in tables:
            found = conn.execute(f"select t::text from {table} t where user_id = %s".encode(), [user_id]).fetchall()
            assert table == "chat_history_sessions" or found == [], table
    for name in ("one", "cleared", "deleted"):
        with pytest.raises(NotFound):
            user.session(name)
        with pytest.raises(Conflict, match="cleared or deleted"):
            user.append(name, QA, epoch=0)
    assert len(other.load(session)) == 6
    assert counted(shared_database, f"other-{session}") == (6, 3, 3)


def test_a_user_is_deleted_in_batches(user: Api, user_id: str, shared_database: str) -> None:
    for name in ("a", "b", "c"):
        talk(user, name, 4)
    assert user.delete_user(user_id, batch=5) == Pruned(3, 0, 24, 12, 12)
    assert counted(shared_database, user_id) == (0, 0, 0)


def test_the_function_alone_deletes_everything_at_once(
    postgres_store: HistoryStore, user_id: str, shared_database: str
) -> None:
    user = Api(postgres_store.for_user(user_id), False)
    talk(user, "a", 4)
    talk(user, "b", 4)
    with psycopg.connect(shared_database, autocommit=True) as conn:
        row = conn.execute("select chat_history_delete_user(%s)", [user_id]).fetchone()
    assert row == ({"sessions": 2, "messages": 16, "turns": 8, "feedback": 8, "more": False},)
    assert counted(shared_database, user_id) == (0, 0, 0)


def test_the_application_itself_is_no_user_to_delete(user: Api, user_id: str, shared_database: str) -> None:
    with psycopg.connect(shared_database, autocommit=True) as conn:
        for given in (None, ""):
            with pytest.raises(psycopg.Error, match="delete_user") as caught:
                conn.execute("select chat_history_delete_user(%s)", [given])
            assert caught.value.sqlstate == "PT400"
    for bad in ("", None, 7, "other"):
        with pytest.raises(InvalidInput):
            user.delete_user(bad)


# --- row level security


def test_a_signed_in_user_prunes_and_deletes_only_their_own(
    api: Api, users: list[tuple[str, str]], session: str, shared_database: str
) -> None:
    (ada_id, ada_token), (bob_id, bob_token) = users
    ada, bob = api.as_user(ada_token), api.as_user(bob_token)
    api.delete_user(ada_id)
    api.delete_user(bob_id)
    for one in (ada, bob):
        talk(one, session, 4)
        talk(one, f"old-{session}")
    age(shared_database, ada_id, f"old-{session}")
    age(shared_database, bob_id, f"old-{session}")
    before = {table: rows(shared_database, bob_id, table) for table in ("sessions", *ROWS)}
    assert ada.prune(idle=DAY, keep_messages=2) == Pruned(1, 1, 4 + 6, 2 + 3, 2 + 3, dry_run=True)
    assert ada.prune(idle=DAY, keep_messages=2, dry_run=False) == Pruned(1, 1, 4 + 6, 2 + 3, 2 + 3)
    others: list[Callable[[], object]] = [
        lambda: ada.for_user(bob_id).prune(dry_run=False),
        lambda: ada.delete_user(bob_id),
    ]
    for refused in others:
        with pytest.raises(Forbidden):
            refused()
    assert ada.delete_user(ada_id) == Pruned(1, 0, 2, 1, 1)
    assert {table: rows(shared_database, bob_id, table) for table in before} == before
    assert len(bob.load(session)) == 8


# --- the command, and SQL alone


def test_the_command_counts_first(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_DB_URL", database)
    with HistoryStore.from_postgres(database) as store:
        user = Api(store.for_user("u"), False)
        for name in ("idle", "long"):
            talk(user, name, 5)
        age(database, "u", "idle")
        run = CliRunner().invoke
        told = run(main, ["prune", "--idle", "90", "--keep", "4"])
        assert told.exit_code == 0, told.output
        assert "1 session" in told.output
        assert "--yes" in told.output
        counts = {"sessions": 1, "trimmed": 1, "messages": 16, "turns": 8, "feedback": 8}
        assert json.loads(run(main, ["prune", "--idle", "90", "--keep", "4", "--json"]).stdout) == {
            **counts,
            "dry_run": True,
        }
        assert counted(database, "u") == (20, 10, 10)
        done = run(main, ["prune", "--idle", "90", "--keep", "4", "--yes", "--json"])
        assert json.loads(done.stdout) == {**counts, "dry_run": False}
        assert counted(database, "u") == (4, 2, 2)
        assert run(main, ["prune", "--yes"]).output == "Nothing to remove.\n"
        user.clear("long")
        assert run(main, ["prune", "--yes"]).output.startswith("Removed 0 sessions, 4 messages")
        assert run(main, ["prune", "--keep", "0"]).exit_code == 2
        assert run(main, ["prune", "--idle", "0"]).exit_code == 2


def test_the_documented_job_prunes_all(database: str) -> None:
    page = (servers.ROOT / "docs" / "security.md").read_text()
    job = page.split("$job$")[1]
    with HistoryStore.from_postgres(database) as store:
        user = Api(store.for_user("u"), False)
        for n in range(30):
            talk(user, f"idle {n}", 20)
            age(database, "u", f"idle {n}")
        talk(user, "busy")
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(job.encode())  # as pg_cron does: a statement of its own, which may commit in between
        assert conn.execute("select count(*) from chat_history_sessions where deleted_at is not null").fetchone() == (
            30,
        )
    assert counted(database, "u") == (4, 2, 2)


def test_a_tombstone_may_be_removed_by_the_owner(database: str) -> None:
    (statement,) = re.findall(
        r"`(delete from chat_history_sessions [^`]*)`",
        (servers.ROOT / "docs" / "security.md").read_text().replace("\n", " "),
    )
    with HistoryStore.from_postgres(database) as store:
        for name in ("u", "other"):
            talk(Api(store.for_user(name), False), "s")
        store.delete_user("u")
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(statement.replace("<id>", "u").encode())
            conn.execute(statement.replace("<id>", "other").encode())
            assert conn.execute("select user_id from chat_history_sessions").fetchall() == [("other",)]
