"""Answers that are being written: followed and stopped from anywhere, and stored when their writer is gone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings, strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import Conflict, Delta, HistoryStore, InvalidInput, InvalidSession, Turn
from langchain_supabase_history.operations.messages import append_call, begin_call
from langchain_supabase_history.operations.streams import MAX_TEXT, Written, write_call
from tests.conftest import Api
from tests.shapes import texts


def ended(stream: Any) -> closing[Any]:
    """A stream that is closed at the end of a block, as generators are."""
    return closing(stream)


class Writer:
    """Whoever writes an answer, step by step."""

    def __init__(self, store: HistoryStore, session: str, question: str = "q") -> None:
        self.store, self.session = store, session
        self.turn_id, self.answer_id = uuid.uuid4(), uuid.uuid4()
        self.text = ""
        running = Turn(self.turn_id, status="running")
        store.execute(begin_call(store.scope, session, [HumanMessage(question)], running))
        self.write("")

    def write(self, text: str, after: int | None = None) -> Written:
        after = len(self.text) if after is None else after
        scope = self.store.scope
        written = self.store.execute(
            write_call(scope, self.session, self.turn_id, self.answer_id, after, text, lease=600)
        )
        self.text = self.text[:after] + text
        return written

    def store_it(self) -> Written:
        turn = Turn(self.turn_id, status="completed")
        answer = [AIMessage(self.text)] if self.text else []
        ids = [self.answer_id][: len(answer)]
        self.store.execute(append_call(self.store.scope, self.session, answer, ids=ids, turn=turn, asked=True))
        return self.write("")


class Follower:
    """Follows over either face of a store, one delta at a time."""

    def __init__(self, api: Api, session: str, **options: Any) -> None:
        options = {"interval": 0.01, **options}
        self.runner = asyncio.Runner() if api.is_async else None
        self.stream: Any = None
        if self.runner is None:
            self.stream = api.store.follow(session, **options)
        else:

            async def begin() -> None:
                self.stream = api.store.afollow(session, **options)

            self.runner.run(begin())

    def next(self) -> Delta | None:
        """The next delta; None at the end."""
        if self.runner is None:
            return next(self.stream, None)

        async def one() -> Delta | None:
            return await anext(self.stream, None)

        return self.runner.run(one())

    def rest(self) -> list[str]:
        found = []
        while (delta := self.next()) is not None:
            found.append(delta.text)
        self.close()
        return found

    def close(self) -> None:
        if self.runner is not None:
            self.runner.close()


@pytest.fixture
def conn(shared_database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(shared_database, autocommit=True) as conn:
        yield conn


def lose(conn: psycopg.Connection[Any], writer: Writer) -> None:
    """Let the time pass within which the writer should have called."""
    done = conn.execute("update chat_history_streams set lost_at = created_at where turn_id = %s", [writer.turn_id])
    assert done.rowcount == 1


def left(conn: psycopg.Connection[Any], writer: Writer) -> int:
    """How many rows there are of an answer that is being written."""
    query = (
        "select (select count(*) from chat_history_streams where turn_id = %(id)s)"
        " + (select count(*) from chat_history_deltas where turn_id = %(id)s)"
    )
    row = conn.execute(query, {"id": writer.turn_id}).fetchone()
    assert row is not None
    return int(row[0])


def stored(store: HistoryStore, session: str) -> list[tuple[str, str]]:
    statuses = {turn.id: turn.status for turn in store.turns(session)}
    return [(m.message.text, statuses[m.turn_id]) for m in store.messages(session)]


def test_what_is_there_and_what_comes(api: Api, session: str, conn: psycopg.Connection[Any]) -> None:
    writer = Writer(api.store, session)
    writer.write("one ")
    writer.write("two ")
    from_start, from_middle = Follower(api, session), Follower(api, session, after=4, turn_id=writer.turn_id)
    assert from_start.next() == Delta(writer.turn_id, 8, "one two ")
    assert from_middle.next() == Delta(writer.turn_id, 8, "two ")
    writer.write("three ")
    assert from_start.next() == Delta(writer.turn_id, 14, "three ")
    writer.write("four")
    writer.store_it()
    assert from_start.rest() == ["four"]
    assert from_middle.rest() == ["three four"]
    assert left(conn, writer) == 0
    assert Follower(api, session).rest() == []  # nothing is being written
    assert Follower(api, session, turn_id=writer.turn_id).rest() == ["one two three four"]
    assert Follower(api, session, turn_id=str(writer.turn_id), after=15).rest() == ["our"]
    assert stored(api.store, session) == [("q", "completed"), ("one two three four", "completed")]


def test_there_is_nothing_to_follow(api: Api, session: str) -> None:
    assert Follower(api, session).rest() == []
    api.append(session, [HumanMessage("q"), AIMessage("a")])
    assert Follower(api, session).rest() == []
    assert Follower(api, session, turn_id=uuid.uuid4()).rest() == []
    assert api.stop_turn(session) is False
    api.store.execute(begin_call(api.store.scope, session, [HumanMessage("q")], Turn(uuid.uuid4(), status="running")))
    assert Follower(api, session).rest() == []  # it runs, and nobody writes its deltas
    assert api.stop_turn(session) is False


def test_a_stop_is_seen_by_the_writer(api: Api, session: str) -> None:
    writer, other = Writer(api.store, session), Writer(api.store, session)
    assert writer.write("half ") == Written(running=True, stopped=False, position=5)
    assert api.stop_turn(session, writer.turn_id) is True
    assert api.stop_turn(session, writer.turn_id) is True
    assert writer.write("more") == Written(running=True, stopped=True, position=9)
    assert other.write("") == Written(running=True, stopped=False, position=0)
    assert api.stop_turn(session, uuid.uuid4()) is False
    assert api.stop_turn(session) is True
    assert other.write("").stopped


def by_follow(store: HistoryStore, session: str) -> None:
    assert [delta.text for delta in store.follow(session)] == ["half of it"]


def by_next_turn(store: HistoryStore, session: str) -> None:
    turn = Turn(uuid.uuid4(), status="running")
    loaded = store.execute(begin_call(store.scope, session, [HumanMessage("next")], turn))
    assert texts(loaded.messages) == ["before", "q", "half of it"]
    store.execute(append_call(store.scope, session, [AIMessage("a")], turn=Turn(turn.id), asked=True))


READERS: dict[str, Callable[[HistoryStore, str], Any]] = {
    "follow": by_follow,
    "stop": lambda store, session: store.stop_turn(session),
    "interrupt": lambda store, session: store.interrupt_turns(session, older_than=3600),
    "prune": lambda store, session: store.prune(idle=None, keep_messages=1000, dry_run=False),
    "next turn": by_next_turn,
}


@pytest.mark.parametrize("reader", READERS)
def test_what_a_lost_writer_has_written_is_stored_by_the_next_reader(
    store: HistoryStore, session: str, conn: psycopg.Connection[Any], reader: str
) -> None:
    store.append(session, [HumanMessage("before")])
    writer = Writer(store, session)
    writer.write("half ")
    writer.write("of it")
    lose(conn, writer)
    READERS[reader](store, session)
    assert left(conn, writer) == 0
    assert stored(store, session)[1:3] == [("q", "interrupted"), ("half of it", "interrupted")]
    assert texts(store.load(session))[:3] == ["before", "q", "half of it"]
    (turn,) = [turn for turn in store.turns(session) if turn.id == writer.turn_id]
    assert turn.ended_at is not None
    assert writer.write(" and more") == Written(running=False, stopped=False, position=0)
    with pytest.raises(Conflict):  # it is not gone after all, and has the whole answer
        writer.store_it()
    assert len([text for text, _ in stored(store, session) if text.startswith("half")]) == 1


def test_a_lost_writer_without_a_word_leaves_the_question(
    store: HistoryStore, session: str, conn: psycopg.Connection[Any]
) -> None:
    lost, waiting = Writer(store, session), Writer(store, session, "another")
    lose(conn, lost)
    assert [delta.text for delta in store.follow(session, turn_id=lost.turn_id)] == []
    assert stored(store, session) == [("q", "interrupted")]
    assert left(conn, lost) == 0
    assert waiting.write("on").running


@pytest.mark.parametrize("how", ["clear", "delete", "rewind", "delete user"])
def test_what_is_erased_meanwhile_is_followed_no_more(
    store: HistoryStore, session: str, conn: psycopg.Connection[Any], how: str
) -> None:
    user = store.for_user(session)
    user.append(session, [HumanMessage("before"), AIMessage("a")])
    writer = Writer(user, session)
    writer.write("half ")
    with ended(user.follow(session, interval=0.01)) as following:
        assert next(following).text == "half "
        if how == "clear":
            user.clear(session)
        elif how == "delete":
            user.delete_session(session)
        elif how == "rewind":
            user.rewind_session(session, before=1)
        else:
            store.delete_user(session)
        assert list(following) == []
    assert writer.write("more") == Written(running=False, stopped=True, position=0)
    assert left(conn, writer) == 0
    assert list(user.follow(session, turn_id=writer.turn_id)) == []
    with pytest.raises(Conflict):
        writer.store_it()
    assert user.messages(session).items == []


def test_a_lost_writer_of_an_erased_turn_brings_nothing_back(
    store: HistoryStore, session: str, conn: psycopg.Connection[Any]
) -> None:
    writer = Writer(store, session)
    writer.write("half ")
    store.clear(session)
    lose(conn, writer)
    assert store.stop_turn(session) is False
    assert left(conn, writer) == 0
    assert list(store.messages(session).items) == []
    assert list(store.turns(session).items) == []


def test_what_a_crash_of_the_database_took_is_written_again(
    store: HistoryStore, session: str, conn: psycopg.Connection[Any]
) -> None:
    writer = Writer(store, session)
    writer.write("one ")
    with ended(store.follow(session, interval=0.01)) as following:
        assert next(following).text == "one "
        conn.execute("delete from chat_history_streams where turn_id = %s", [writer.turn_id])  # with its deltas
        assert writer.write("two") == Written(running=True, stopped=False, position=0)
        assert writer.write("one two", 0) == Written(running=True, stopped=False, position=7)
        assert next(following).text == "two"
        writer.store_it()
        assert list(following) == []


def test_a_write_that_is_sent_again_adds_nothing_twice(store: HistoryStore, session: str) -> None:
    writer = Writer(store, session)
    for _ in range(3):
        assert writer.write("one ", 0).position == 4
    assert writer.write("two", 4).position == 7
    assert writer.write("one two", 0).position == 7  # an old one that arrives late
    assert [d.text for d in [next(iter(store.follow(session)))]] == ["one two"]


@pytest.mark.parametrize("transport", ["psycopg", "data-api"])
def test_another_user_sees_and_stops_nothing(
    postgres_store: HistoryStore,
    data_api_store: HistoryStore,
    users: list[tuple[str, str]],
    session: str,
    transport: str,
) -> None:
    store = postgres_store if transport == "psycopg" else data_api_store
    (ada_id, ada_token), (_, bob_token) = users
    ada, bob = store.as_user(ada_token), store.as_user(bob_token)
    writer = Writer(ada, session)
    writer.write("for ada")
    assert list(bob.follow(session)) == list(bob.follow(session, turn_id=writer.turn_id)) == []
    assert list(store.follow(session)) == list(store.for_user("carol").follow(session)) == []
    assert bob.stop_turn(session) is store.stop_turn(session) is False
    assert writer.write("") == Written(running=True, stopped=False, position=7)
    hers = store.for_user(ada_id)  # the application, on her behalf
    assert next(iter(hers.follow(session))).text == next(iter(ada.follow(session))).text == "for ada"
    assert hers.stop_turn(session) is True
    assert writer.write("").stopped


characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


@settings(max_examples=40, deadline=None, database=None)
@given(chunks=st.lists(st.text(characters, max_size=700) | st.just("word " * 300), max_size=30), data=st.data())
def test_however_it_is_cut_the_text_is_that_of_the_answer(
    postgres_store: HistoryStore, shared_database: str, chunks: list[str], data: st.DataObject
) -> None:
    session = f"session-{uuid.uuid4()}"
    writer = Writer(postgres_store, session)
    looks = data.draw(st.sets(st.integers(0, len(chunks))))
    with ended(postgres_store.follow(session, turn_id=writer.turn_id, interval=0.01)) as following:
        shown = ""
        for n, chunk in enumerate(chunks):
            assert writer.write(chunk).position == len(writer.text)
            if n in looks and len(shown) < len(writer.text):
                shown += next(following).text
        with psycopg.connect(shared_database) as conn:
            assert left(conn, writer) <= 2 + len(writer.text) / 1000
        writer.store_it()
        shown += "".join(delta.text for delta in following)
    assert shown == writer.text == "".join(chunks)
    found = texts(m.message for m in postgres_store.messages(session))
    assert found == (["q", writer.text] if writer.text else ["q"])


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "one "}, {"type": "reasoning", "reasoning": "x"}, {"type": "text", "text": "two"}],
        ["one ", "two"],
        "one two",
    ],
)
def test_the_rest_of_an_answer_in_blocks_is_their_text(store: HistoryStore, session: str, content: Any) -> None:
    store.append(session, [HumanMessage("q"), AIMessage(content)])
    (turn,) = store.turns(session)
    assert [delta.text for delta in store.follow(session, turn_id=turn.id, after=2)] == ["e two"]


def test_bad_arguments_are_refused_before_anything_is_sent(postgres_store: HistoryStore, session: str) -> None:
    for bad in ({"interval": 0}, {"interval": 1e5}):
        with pytest.raises(InvalidInput):
            postgres_store.follow(session, **bad)
    with pytest.raises(InvalidSession):
        postgres_store.follow("")
    writer = Writer(postgres_store, session)
    with pytest.raises(InvalidInput):
        writer.write("x" * (MAX_TEXT + 1))
