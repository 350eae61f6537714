"""The contract of the store, on four drivers: psycopg and the Data API, sync and async."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_supabase_history import Conflict, InvalidMessage, InvalidSession, NotFound, Turn, Window
from langchain_supabase_history.core.arguments import message_ids
from tests.conftest import Api

QA = [HumanMessage("question"), AIMessage("answer")]


def texts(messages: object) -> list[str]:
    return [m.text for m in messages]  # type: ignore[attr-defined]


def test_what_is_appended_is_loaded_in_order(api: Api, session: str) -> None:
    api.append(session, QA)
    api.append(session, [HumanMessage("q2"), AIMessage("a2")])
    assert api.load(session) == [*QA, HumanMessage("q2"), AIMessage("a2")]


def test_an_unknown_session_is_empty(api: Api, session: str) -> None:
    assert api.load(session) == []
    assert api.messages(session).items == []
    assert api.turns(session).items == []
    assert api.clear(session) == 0
    assert api.delete_session(session) is False
    with pytest.raises(NotFound, match="no session"):
        api.session(session)


def test_positions_are_contiguous_and_records_are_complete(api: Api, session: str) -> None:
    before = datetime.now(UTC)
    stored = api.append(session, QA) + api.append(session, QA)
    assert [m.position for m in stored] == [1, 2, 3, 4]
    assert len({m.id for m in stored}) == 4
    assert stored[0].turn_id == stored[1].turn_id != stored[2].turn_id
    assert abs((stored[0].created_at - before).total_seconds()) < 60
    assert list(api.messages(session)) == stored
    found = api.session(session)
    assert (found.session_id, found.user_id, found.message_count, found.last_position) == (session, None, 4, 4)
    assert (found.epoch, found.revision, found.title, found.metadata) == (0, 0, "question", {})


def test_the_same_object_appended_twice_is_stored_twice(api: Api, session: str) -> None:
    message = AIMessage("again", id="lc_run--1-0")
    api.append(session, [HumanMessage("q"), message, message])
    api.append(session, [message])
    assert texts(api.load(session)) == ["q", "again", "again", "again"]


def test_appending_nothing_makes_nothing(api: Api, session: str) -> None:
    assert api.append(session, []) == []
    with pytest.raises(NotFound):
        api.session(session)


def test_a_repeated_append_is_answered_like_the_first(api: Api, session: str) -> None:
    ids = message_ids(2)
    first = api.append(session, QA, ids=ids)
    api.append(session, [HumanMessage("between")])
    assert api.append(session, QA, ids=ids) == first
    assert len(api.load(session)) == 3


def test_partial_overlap_appends_only_what_is_new(api: Api, session: str) -> None:
    ids = message_ids(3)
    first = api.append(session, QA, ids=ids[:2])
    again = api.append(session, [AIMessage("third"), *QA], ids=[ids[2], *ids[:2]])
    assert again[1:] == first
    assert again[0].position == 3
    assert texts(api.load(session)) == ["question", "answer", "third"]


def test_a_known_id_with_other_content_is_a_conflict(api: Api, session: str) -> None:
    ids = message_ids(2)
    api.append(session, QA, ids=ids)
    with pytest.raises(Conflict, match="other content"):
        api.append(session, [HumanMessage("new"), AIMessage("changed")], ids=[message_ids(1)[0], ids[1]])
    assert api.load(session) == QA


@pytest.mark.parametrize("known_before", [False, True])
def test_an_id_twice_in_one_call_is_a_conflict(api: Api, session: str, known_before: bool) -> None:
    (one,) = message_ids(1)
    if known_before:
        api.append(session, [HumanMessage("q")], ids=[one])
    with pytest.raises(Conflict, match="twice"):
        api.append(session, [HumanMessage("q"), HumanMessage("q")], ids=[one, one])
    assert len(api.load(session)) == int(known_before)
    assert api.append(session, [HumanMessage("next")])[0].position == 1 + int(known_before)


def test_an_idempotency_key_names_an_append(api: Api, session: str) -> None:
    first = api.append(session, QA, idempotency_key="request-1")
    assert api.append(session, QA, idempotency_key="request-1") == first
    api.append(session, QA, idempotency_key="request-2")
    assert len(api.load(session)) == 4


def test_clear_hides_and_a_replay_brings_nothing_back(api: Api, session: str) -> None:
    ids = message_ids(2)
    first = api.append(session, QA, ids=ids, epoch=0)
    assert api.clear(session) == 2
    assert api.load(session) == []
    assert api.messages(session).items == []
    assert api.turns(session).items == []
    assert api.append(session, QA, ids=ids, epoch=0) == first  # known: answered, and still hidden
    with pytest.raises(Conflict, match="cleared or deleted"):
        api.append(session, QA, epoch=0)
    assert api.load(session) == []
    assert api.session(session).epoch == 1
    assert api.append(session, QA, epoch=1)[0].position == 3
    assert len(api.load(session)) == 2


def test_delete_removes_and_a_replay_brings_nothing_back(api: Api, session: str) -> None:
    ids = message_ids(2)
    api.append(session, QA, ids=ids, epoch=0)
    assert api.delete_session(session) is True
    assert api.delete_session(session) is False
    with pytest.raises(NotFound):
        api.session(session)
    with pytest.raises(Conflict, match="cleared or deleted"):
        api.append(session, QA, ids=ids, epoch=0)
    assert api.load(session) == []
    api.append(session, [HumanMessage("anew")])  # the name may be used again
    assert texts(api.load(session)) == ["anew"]
    assert api.session(session).message_count == 1


def test_messages_come_in_pages(api: Api, session: str) -> None:
    api.append(session, [HumanMessage(str(n)) for n in range(5)])
    seen, cursor = [], None
    while True:
        page = api.messages(session, limit=2, cursor=cursor)
        seen.append(texts(m.message for m in page))
        if (cursor := page.next_cursor) is None:
            break
    assert [t for page in seen for t in page] == list("01234")
    newest = api.messages(session, limit=2, newest_first=True)
    assert texts(m.message for m in newest) == ["4", "3"]
    older = api.messages(session, limit=3, newest_first=True, cursor=newest.next_cursor)
    assert texts(m.message for m in older) == ["2", "1", "0"]


def test_turns_open_join_and_are_listed(api: Api, session: str) -> None:
    opened = api.append(session, QA)[0].turn_id
    assert api.append(session, [AIMessage("more")])[0].turn_id == opened  # begins with no question: joins the last
    second = api.append(session, QA)[0].turn_id
    assert [t.id for t in api.turns(session)] == [opened, second]
    assert [t.ordinal for t in api.turns(session, newest_first=True)] == [2, 1]
    assert [t.id for t in api.turns(session, limit=1, cursor=api.turns(session, limit=1).next_cursor)] == [second]
    assert {t.status for t in api.turns(session)} == {"completed"}


def test_a_repeated_append_that_goes_on_stays_one_turn(api: Api, session: str) -> None:
    ids = message_ids(4)
    api.append(session, [HumanMessage("q1")], ids=ids[:1])
    api.append(session, [HumanMessage("q2")])  # another turn, before the first one's answer
    api.append(session, [HumanMessage("q1"), AIMessage("a1"), AIMessage("b1")], ids=ids[:3])
    turns = {m.message.text: m.turn_id for m in api.messages(session)}
    assert turns["q1"] == turns["a1"] == turns["b1"] != turns["q2"]
    assert len(list(api.turns(session))) == 2
    assert texts(api.load(session, Window(turns=1))) == ["q2", "a1", "b1"]
    api.append(session, [HumanMessage("q1"), HumanMessage("q3")], ids=[ids[0], ids[3]])
    assert len(list(api.turns(session))) == 3


def test_news_of_an_older_turn_make_it_no_newer(api: Api, session: str) -> None:
    failed, ids = Turn(uuid.uuid4(), status="failed"), message_ids(2)
    api.append(session, [HumanMessage("qA"), AIMessage("error")], ids=ids, turn=failed)
    api.append(session, [HumanMessage("qB")])
    api.append(session, [HumanMessage("qA"), AIMessage("error")], ids=ids, turn=failed)  # a retry
    api.append(session, [], turn=failed)
    api.append(session, [AIMessage("aB")])
    assert texts(api.load(session)) == ["qB", "aB"]


def test_what_comes_after_a_failed_turn_is_shown(api: Api, session: str) -> None:
    api.append(session, QA, turn=Turn(uuid.uuid4(), status="failed"))
    api.append(session, [SystemMessage("a note")])
    assert texts(api.load(session)) == ["a note"]


def test_a_turn_that_was_cleared_takes_no_more(api: Api, session: str) -> None:
    turn = Turn(uuid.uuid4())
    api.append(session, QA, turn=turn)
    api.clear(session)
    with pytest.raises(Conflict, match="turn was cleared"):
        api.append(session, [AIMessage("more")], turn=turn)
    assert api.messages(session).items == []


def test_a_turn_keeps_what_it_was_told(api: Api, session: str) -> None:
    now = datetime.now(UTC)
    turn = Turn(
        id=uuid.uuid4(),
        status="completed",
        trace_id="t",
        run_id="r",
        project="p",
        started_at=now,
        ended_at=now,
        model="m",
        input_tokens=1,
        output_tokens=2,
        total_tokens=3,
        token_details={"cache": {"read": 1}},
        documents=[{"id": "d", "score": 0.5}],
        error=None,
        metadata={"a": [1, {"b": None}]},
    )
    stored = api.append(session, QA, turn=turn)
    assert {m.turn_id for m in stored} == {turn.id}
    (found,) = api.turns(session)
    assert (found.ordinal, found.created_at is not None) == (1, True)
    for name in Turn.__slots__:
        if name not in ("ordinal", "created_at"):
            assert getattr(found, name) == getattr(turn, name), name


def test_unknown_is_none_and_later_news_completes_a_turn(api: Api, session: str) -> None:
    turn_id = uuid.uuid4()
    api.append(session, [HumanMessage("q")], turn=Turn(turn_id, status="running", model="m"))
    api.append(session, [AIMessage("a")], turn=Turn(turn_id, total_tokens=7))
    api.append(session, [], turn=Turn(turn_id, status="interrupted", error="late"))  # comes too late to undo the end
    (found,) = api.turns(session)
    assert (found.status, found.model, found.total_tokens, found.input_tokens) == ("completed", "m", 7, None)
    assert len(api.load(session)) == 2


def test_failed_turns_are_stored_but_not_loaded(api: Api, session: str) -> None:
    turn_id = uuid.uuid4()
    api.append(session, QA)
    api.append(session, [HumanMessage("failed")], turn=Turn(turn_id, status="failed", error="boom"))
    assert texts(api.load(session)) == ["question", "answer"]
    assert texts(m.message for m in api.messages(session)) == ["question", "answer", "failed"]
    revision = api.session(session).revision
    api.append(session, [AIMessage("late answer")], turn=Turn(turn_id))  # a late answer completes it after all
    assert texts(api.load(session)) == ["question", "answer", "failed", "late answer"]
    assert api.session(session).revision == revision + 1


def test_tool_calls_without_an_answer_are_stored_but_not_loaded(api: Api, session: str) -> None:
    call = {"name": "f", "args": {}, "id": "c1", "type": "tool_call"}
    other = {**call, "id": "c2"}
    messages = [
        SystemMessage("be brief"),
        HumanMessage("q"),
        AIMessage("let me see", tool_calls=[call, other]),
        ToolMessage("result", tool_call_id="c1"),
        ToolMessage("orphan", tool_call_id="c9"),
        AIMessage("", tool_calls=[other]),
    ]
    api.append(session, messages)
    loaded = api.load(session)
    assert texts(loaded) == ["be brief", "q", "let me see", "result"]
    assert [c["id"] for c in loaded[2].tool_calls] == ["c1"]
    assert [m.message for m in api.messages(session)] == messages


def test_two_users_may_have_a_session_of_one_name(api: Api, session: str) -> None:
    ada, bob = api.for_user(f"ada-{session}"), api.for_user(f"bob-{session}")
    ada.append(session, [HumanMessage("from ada")])
    bob.append(session, [HumanMessage("from bob")])
    assert texts(ada.load(session)) == ["from ada"]
    assert texts(bob.load(session)) == ["from bob"]
    assert api.load(session) == []
    assert ada.session(session).user_id == f"ada-{session}"
    ada.delete_session(session)
    assert texts(bob.load(session)) == ["from bob"]


@pytest.mark.parametrize("bad", ["", "x" * 1001, "nul\x00", "surrogate\ud800", None, 7, b"bytes"])
def test_bad_session_ids_are_refused(api: Api, bad: object) -> None:
    for call in (api.load, api.messages, api.turns, api.clear, api.session, api.delete_session):
        with pytest.raises(InvalidSession, match="session_id"):
            call(bad)
    with pytest.raises(InvalidSession, match="session_id"):
        api.append(bad, QA)
    with pytest.raises(InvalidSession, match="user_id"):
        api.for_user(bad)


@pytest.mark.parametrize(
    "name", ["a'; drop table x; --", "ünïcödé 😀", "  ", "line\nbreak", "x" * 1000, "null", '"', "\\"]
)
def test_odd_session_ids_are_kept_apart(api: Api, session: str, name: str) -> None:
    name = (name + session)[-1000:] if len(name) < 1000 else name
    user = api.for_user(session)
    user.append(name, [HumanMessage(name)])
    assert texts(user.load(name)) == [name]
    assert user.session(name).session_id == name


@pytest.mark.parametrize(
    ("messages", "names"),
    [
        ("text", "a message or a list of them"),
        ([HumanMessage("ok"), "text"], r"messages\[1\]"),
        ([HumanMessage("ok", additional_kwargs={"a": [1, {"b": object()}]})], r"additional_kwargs\.a\[1\]\.b"),
        ([HumanMessage("x" * 2**24)], "max_message_bytes"),
    ],
)
def test_bad_messages_are_refused_before_anything_is_written(
    api: Api, session: str, messages: object, names: str
) -> None:
    with pytest.raises(InvalidMessage, match=names):
        api.append(session, messages)
    with pytest.raises(NotFound):
        api.session(session)


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1; drop", "9" * 40, 3])
def test_bad_pages_are_refused(api: Api, session: str, cursor: object) -> None:
    with pytest.raises(InvalidSession, match="cursor"):
        api.messages(session, cursor=cursor)
    with pytest.raises(InvalidSession, match="limit"):
        api.turns(session, limit=0)
    with pytest.raises(InvalidSession, match="newest_first"):
        api.messages(session, newest_first="yes")


def test_a_session_of_5000_messages_reads_back_whole(api: Api, session: str) -> None:
    for start in range(0, 5000, 1000):
        api.append(session, [HumanMessage(str(n)) for n in range(start, start + 1000)])
    assert texts(api.load(session)) == [str(n) for n in range(5000)]
