"""Conversations handed over to another user, and shared with whoever holds a token."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import (
    Conflict,
    Forbidden,
    HistoryStore,
    InvalidInput,
    NotFound,
    Reassigned,
    Turn,
)
from langchain_supabase_history.doctor.guards import grants
from tests import servers
from tests.conftest import Api

QA = [HumanMessage("question"), AIMessage("answer")]


def texts(found: Any) -> list[str]:
    return [getattr(m, "message", m).text for m in found]


@pytest.fixture
def guest(session: str) -> str:
    return f"guest-{session}"


def test_a_guest_keeps_all_that_belongs_to_a_conversation(api: Api, session: str, guest: str) -> None:
    before, after = api.for_user(guest), api.for_user(session)
    turn = Turn(uuid.uuid4(), model="m", total_tokens=7, total_cost=0.25)
    stored = before.append("s", QA, turn=turn)
    before.append("s", [HumanMessage("q2"), AIMessage("a2")])
    before.add_feedback("s", stored[1], "helpful", score=1)
    before.update_session("s", title="Title", tags=["x"], pinned=True)
    alternative = before.rewind_session("s", before=3)
    share = before.share_session("s")
    was = before.session("s")
    assert api.reassign_user(guest, session, dry_run=True) == Reassigned(1, 2, 0, dry_run=True)
    assert texts(before.load("s")) == texts(QA)
    assert api.reassign_user(guest, session) == Reassigned(1, 2, 0)
    now = after.session("s")
    assert now == type(was)(**{name: getattr(was, name) for name in was.__slots__} | {"user_id": session})
    assert list(after.messages("s")) == stored
    assert [f.score for f in after.feedback("s")] == [1]
    assert (after.turns("s").items[0].model, after.usage()[0].total_cost) == ("m", 0.25)
    assert texts(api.shared(share.token)) == texts(QA)
    after.switch_to("s", alternative)
    assert texts(after.load("s")) == ["question", "answer", "q2", "a2"]
    assert (before.load("s"), before.sessions().items, before.alternatives("s")) == ([], [], [])
    with pytest.raises(NotFound):
        before.session("s")
    with pytest.raises(Conflict):  # what was on its way when it was handed over
        before.append("s", QA, epoch=was.epoch)
    assert api.reassign_user(guest, session) == Reassigned(0, 0, 0)


def test_names_that_meet_get_a_suffix(api: Api, session: str, guest: str) -> None:
    before, after = api.for_user(guest), api.for_user(session)
    for name in ("default", "default-2", "only"):
        before.append(name, [HumanMessage(f"guest's {name}")])
    after.append("default", [HumanMessage("mine")])
    assert api.reassign_user(guest, session, dry_run=True) == Reassigned(3, 3, 1, dry_run=True)
    done = api.reassign_user(guest, session)
    assert (done.sessions, done.messages) == (3, 3)
    assert texts(after.load("default")) == ["mine"]
    said = {texts(after.load(s.session_id))[0] for s in after.sessions()}
    assert said == {"mine", "guest's default", "guest's default-2", "guest's only"}
    before.append("default", [HumanMessage("written afterwards")])  # the guest's again, and handed over again
    assert before.session("default").message_count == 1
    assert api.reassign_user(guest, session) == Reassigned(1, 1, 1)
    assert len(after.sessions()) == 5


def test_one_session_is_handed_over(api: Api, session: str, guest: str) -> None:
    before = api.for_user(guest)
    for name in ("s", "t"):
        before.append(name, QA)
    assert before.reassign_session("s", session) == Reassigned(1, 2, 0)
    assert before.reassign_session("s", session) == Reassigned(0, 0, 0)
    assert [s.session_id for s in before.sessions()] == ["t"]
    api.append(session, QA)  # the application's own
    assert api.reassign_session(session, guest) == Reassigned(1, 2, 0)
    assert texts(before.load(session)) == texts(QA)


def test_what_a_handover_refuses(store: HistoryStore, session: str, guest: str, users: list[tuple[str, str]]) -> None:
    view = store.for_user(guest)
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.reassign_user(guest, guest),
        lambda: view.reassign_session("s", guest),
        lambda: view.reassign_user(session, guest),
        lambda: store.reassign_user("", guest),
        lambda: store.reassign_session("s", ""),
    )
    for call in calls:
        with pytest.raises(InvalidInput):
            call()
    ada = store.as_user(users[0][1])
    ada.append(session, QA)
    for call in (
        lambda: ada.reassign_session(session, guest),
        lambda: ada.reassign_user(users[0][0], guest),
        lambda: ada.reassign_user(guest, users[0][0], dry_run=True),
    ):
        with pytest.raises(Forbidden, match="only the application"):
            call()


def test_50_conversations_handed_over_while_4_writers_append(
    postgres_store: HistoryStore, session: str, guest: str
) -> None:
    before, after = postgres_store.for_user(guest), postgres_store.for_user(session)
    names = [f"s{n}" for n in range(50)]
    for name in names:
        before.append(name, [HumanMessage(f"{name} first")])
    written: list[str] = []
    faults: list[BaseException] = []

    def write(n: int) -> None:
        try:
            for k in range(60):
                name = names[(n * 13 + k) % 50]
                text = f"{name} {n}-{k}"
                before.append(name, [HumanMessage(text), AIMessage(text)])
                written.append(text)
        except BaseException as error:
            faults.append(error)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in writers:
        thread.start()
    postgres_store.reassign_user(guest, session)

    def said(view: HistoryStore) -> list[str]:
        return [text for one in view.sessions(limit=1000) for text in texts(view.messages(one.session_id, limit=1000))]

    for thread in writers:
        thread.join()
    assert faults == []
    here, there = said(before), said(after)
    assert not set(here) & set(there)  # none in both accounts
    assert sorted(here + there) == sorted([f"{name} first" for name in names] + written * 2)  # none lost, none twice
    assert not [text for text in here if text.endswith("first")]
    postgres_store.reassign_user(guest, session)
    assert said(before) == []
    assert sorted(said(after)) == sorted(here + there)


# --- shares


def test_a_share_shows_the_conversation_as_it_stood(api: Api, session: str) -> None:
    stored = api.append(session, QA)
    share = api.share_session(session)
    assert share.expires_at is None
    assert len(share.token) >= 43
    assert share.token not in repr(share)
    api.append(session, [HumanMessage("private")])
    assert api.shared(share.token) == stored
    api.rewind_session(session, before=1)
    api.prune()
    assert api.shared(share.token) == stored
    assert api.share_session(session).token != share.token
    api.revoke_share(share.token)
    api.revoke_share(share.token)
    with pytest.raises(NotFound):
        api.shared(share.token)


@pytest.mark.parametrize("erase", ["clear", "delete_session", "delete_user"])
def test_what_is_erased_is_shared_no_more(shared_database: str, store: HistoryStore, session: str, erase: str) -> None:
    user = store.for_user(session)
    user.append("s", QA)
    token = user.share_session("s").token
    (store if erase == "delete_user" else user).__getattribute__(erase)(session if erase == "delete_user" else "s")
    with pytest.raises(NotFound):
        store.shared(token)
    with psycopg.connect(shared_database) as conn:
        assert conn.execute("select from chat_history_shares where user_id = %s", [session]).fetchall() == []
    user.append("s", QA)
    token = user.share_session("s").token
    user.prune(dry_run=False)
    assert texts(store.shared(token)) == texts(QA)  # shared since then


def test_a_token_is_guessed_by_nobody_and_stored_nowhere(
    shared_database: str, store: HistoryStore, session: str
) -> None:
    store.append(session, QA)
    token = store.share_session(session).token
    wrong = [token[:-1], token + "x", token.upper(), token[::-1], hashlib.sha256(token.encode()).hexdigest(), "x", "%"]
    for guess in wrong:
        with pytest.raises(NotFound):
            store.shared(guess)
        with pytest.raises(NotFound):
            store.revoke_share(guess)
    for bad in ("", "\x00", None, 7, "x" * 201):
        with pytest.raises(InvalidInput):
            store.shared(bad)  # type: ignore[arg-type]
    with psycopg.connect(shared_database) as conn:
        rows = conn.execute("select h::text from chat_history_shares h").fetchall()
    assert rows
    assert token not in str(rows)


def test_a_share_ends(shared_database: str, store: HistoryStore, session: str) -> None:
    store.append(session, QA)
    share = store.share_session(session, expires=timedelta(hours=1))
    assert share.expires_at is not None
    assert timedelta(minutes=59) < share.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    assert texts(store.shared(share.token)) == texts(QA)
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute(
            "update chat_history_shares set expires_at = clock_timestamp() - interval '1 second' where token_hash = "
            "sha256(%s)",
            [share.token.encode()],
        )
    with pytest.raises(NotFound):
        store.shared(share.token)
    revoked, lasting = store.share_session(session), store.share_session(session)
    store.revoke_share(revoked.token)
    store.prune(dry_run=False)
    with psycopg.connect(shared_database) as conn:
        query = "select token_hash from chat_history_shares h join chat_history_sessions s using (session_key) "
        rows = conn.execute(query + "where s.session_id = %s", [session]).fetchall()
    assert [bytes(found) for (found,) in rows] == [hashlib.sha256(lasting.token.encode()).digest()]
    past = datetime.now(UTC) - timedelta(seconds=1)
    for bad in (past, datetime(2030, 1, 1), timedelta(0), timedelta.max, 60, "tomorrow"):
        with pytest.raises(InvalidInput):
            store.share_session(session, expires=bad)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        store.share_session("unknown " + session)


def test_who_may_read_and_revoke_a_share(store: HistoryStore, session: str, users: list[tuple[str, str]]) -> None:
    ada, bob = (store.as_user(token) for _, token in users[:2])
    ada.append(session, QA)
    share = ada.share_session(session)
    assert texts(bob.shared(share.token)) == texts(store.shared(share.token)) == texts(QA)
    with pytest.raises(NotFound):
        bob.revoke_share(share.token)
    with pytest.raises(NotFound):
        bob.share_session(session)
    with pytest.raises(NotFound):
        store.for_user("somebody").revoke_share(share.token)
    store.revoke_share(share.token)  # the application may
    with pytest.raises(NotFound):
        bob.shared(share.token)


def test_a_public_key_reads_shares_only_where_they_are_open(patient: tuple[str, servers.Lite]) -> None:
    conninfo, server = patient
    with (
        HistoryStore.from_postgres(conninfo) as store,
        HistoryStore.from_supabase(server.url, servers.PUBLISHABLE_KEY) as public,
        psycopg.connect(conninfo, autocommit=True) as conn,
    ):
        store.append("s", QA)
        token = store.share_session("s").token
        for open_ in (False, True, False):
            conn.execute("select chat_history_open_shares(%s)", [open_])
            conn.execute("select chat_history_grant()")  # as each migration ends
            (facts,) = conn.execute("select chat_history_guards()").fetchone() or ({},)
            assert [finding.status for finding in grants(facts, "")] == ["ok"]
            if open_:
                assert texts(public.shared(token)) == texts(QA)
                with pytest.raises(NotFound):
                    public.shared("guess")
            else:
                with pytest.raises(Forbidden):
                    public.shared(token)
            for call in (
                lambda: public.load("s"),
                lambda: public.share_session("s"),
                lambda: public.revoke_share(token),
                lambda: public.search("question"),
                lambda: public.sessions(),
                lambda: public.alternatives("s"),
            ):
                with pytest.raises(Forbidden):
                    call()
