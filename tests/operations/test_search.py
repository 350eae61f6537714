"""Search: words, accents, languages, scripts without spaces, excerpts with marks, and the index behind it."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_supabase_history import HistoryStore, InvalidInput, InvalidSession, SearchHit, migrate
from langchain_supabase_history.migrations import script
from tests import servers
from tests.conftest import Api


def found(page: Any) -> list[tuple[str, list[str]]]:
    return [(hit.message.message.text, [hit.excerpt[start:end] for start, end in hit.marks]) for hit in page]


def test_words_are_found_whatever_their_case_and_accents(api: Api, session: str) -> None:
    user = api.for_user(session)
    stored = user.append("s", [HumanMessage("Qual é a previsão do tempo em São Paulo?"), AIMessage("Sol, 30 graus.")])
    user.append("t", [HumanMessage("Uma receita de pão"), AIMessage("Água e farinha, no tempo certo")])
    (hit,) = user.search("PREVISAO sao")
    assert isinstance(hit, SearchHit)
    assert (hit.session_id, hit.user_id, hit.message) == ("s", session, stored[0])
    assert hit.title == hit.excerpt == "Qual é a previsão do tempo em São Paulo?"
    assert [hit.excerpt[start:end] for start, end in hit.marks] == ["previsão", "São"]
    assert hit.score > 0
    assert {text for text, _ in found(user.search("tempo"))} == {
        stored[0].message.text,
        "Água e farinha, no tempo certo",
    }
    assert found(user.search("a\u0301gua far")) == [("Água e farinha, no tempo certo", ["Água", "farinha"])]
    assert found(user.search("receita previsao")) == []  # all words in one message
    assert found(user.search("previs o")) == []  # only the last word may be a beginning
    assert found(user.search("tempo", session_id="t")) == [("Água e farinha, no tempo certo", ["tempo"])]
    assert found(user.search("tempo", session_id="unknown")) == []
    assert found(api.for_user(f"{session}-other").search(stored[0].message.text)) == []
    for query in ("& | ! ( ) : * '", "' or 1=1; --", "a & !b", "<b>", "\\", "%", "🙂"):
        assert found(user.search(query)) == []


@pytest.mark.parametrize(
    ("text", "query", "word"),
    [
        ("ПРИВЕТ, Ёлка", "привет", "ПРИВЕТ"),
        ("Зелена ҐАНОК, Їжак", "їжак", "Їжак"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("Σίσυφος", "ΣΙΣΥΦΟΣ", "Σίσυφος"),
        ("ՀԱՅԱՍՏԱՆ", "հայաստան", "ՀԱՅԱՍՏԱՆ"),
        ("Wycieczka do ŁODZI", "lodzi", "ŁODZI"),
        ("Wycieczka do Łodzi", "łodzi", "Łodzi"),
        ("Bay đến Đà Nẵng", "da nang", "Đà Nẵng"),
        ("Smørrebrød i København", "SMORREBROD", "Smørrebrød"),
        ("İzmir'de sıcak", "izmir", "İzmir"),
    ],
)
def test_letters_beyond_ascii_have_no_case_and_accents_either(
    store: HistoryStore, session: str, text: str, query: str, word: str
) -> None:
    user = store.for_user(session)
    user.append("s", [HumanMessage(text)])
    ((shown, marked),) = found(user.search(query))
    assert (shown, " ".join(marked)) == (text, word)
    assert [one.session_id for one in user.sessions(query)] == ["s"]


def test_only_what_is_there_is_found(api: Api, session: str) -> None:
    user = api.for_user(session)
    call = {"name": "secretname", "args": {"secretarg": "secretvalue"}, "id": "c", "type": "tool_call"}
    image = {"type": "image", "base64": "secretvalue", "mime_type": "image/png"}
    first = user.append(
        "s",
        [
            HumanMessage([{"type": "text", "text": "visible words"}, image]),
            AIMessage("", tool_calls=[call]),
            ToolMessage("visible result", tool_call_id="c"),
        ],
    )
    later = user.append("s", [AIMessage("visible answer")])[0]
    assert [m.message.position for m in user.search("visible")] in ([1, 4], [4, 1])
    assert [m.message.position for m in user.search("visible", types=["tool"])] == [3]
    assert found(user.search("secretvalue")) == found(user.search("base64")) == found(user.search("secretname")) == []
    assert len(user.search("visible", until=later.created_at)) == 1
    assert len(user.search("visible", since=later.created_at)) == 1
    assert len(user.search("visible", since=later.created_at + timedelta(seconds=1))) == 0
    alternative = user.rewind_session("s", before=first[1])
    assert len(user.search("answer")) == 0
    user.switch_to("s", alternative)
    assert len(user.search("answer")) == 1
    user.clear("s")
    assert len(user.search("visible")) == 0


def test_scripts_without_spaces_between_words(api: Api, session: str) -> None:
    user = api.for_user(session)
    user.append("s", [HumanMessage("今日は天気がいいから散歩しましょう"), AIMessage("ไปเดินเล่นกันเถอะ in Bangkok")])
    assert found(user.search("天気")) == [("今日は天気がいいから散歩しましょう", ["天気"])]
    assert found(user.search("bangkok เดินเล่น")) == [("ไปเดินเล่นกันเถอะ in Bangkok", ["เดินเล่น", "Bangkok"])]
    assert found(user.search("天気 bangkok")) == []


def test_without_a_word_the_text_itself_is_looked_for(store: HistoryStore, session: str) -> None:
    user = store.for_user(session)
    user.append("s", [HumanMessage("Is C++ faster?"), AIMessage("C is, or not")])
    assert found(user.search("++")) == [("Is C++ faster?", ["++"])]
    assert found(user.search("🙂")) == []


def test_pages_hold_each_hit_once_and_the_best_come_first(api: Api, session: str) -> None:
    user = api.for_user(session)
    for n in range(7):
        user.append(f"s{n % 3}", [HumanMessage("apple " * (n % 3 + 1) + "pear " * 5)])
    whole = list(user.search("apple"))
    assert [hit.score for hit in whole] == sorted((hit.score for hit in whole), reverse=True)
    assert len({hit.message.id for hit in whole}) == len(whole) == 7
    seen, cursor = [], None
    while True:
        page = user.search("apple", limit=2, cursor=cursor)
        seen += page.items
        if (cursor := page.next_cursor) is None:
            break
    assert seen == whole
    sessions_cursor = user.sessions(limit=1).next_cursor
    for bad in ("x", sessions_cursor, "W10="):
        with pytest.raises(InvalidSession, match="cursor"):
            user.search("apple", cursor=bad)


@pytest.mark.parametrize("bad", ["", " \n", "x" * 1001, "nul\x00", None, 7])
def test_bad_queries_are_refused(store: HistoryStore, bad: Any) -> None:
    with pytest.raises(InvalidInput):
        store.search(bad)
    wrong: list[Any] = [{"types": []}, {"types": "human"}, {"types": [""]}, {"limit": 0}, {"since": "today"}]
    for options in wrong:
        with pytest.raises(InvalidInput):
            store.search("words", **options)


def test_an_excerpt_is_plain_text_around_what_was_found(store: HistoryStore, session: str) -> None:
    user = store.for_user(session)
    text = "before " * 60 + "<b>needle</b> &amp; \x01more\x02 " + "after " * 60
    user.append("s", [HumanMessage(text)])
    (hit,) = user.search("needle")
    assert "<b>needle</b> &amp;" in hit.excerpt
    assert hit.excerpt.startswith("…before ")
    assert hit.excerpt.endswith("after…")
    assert len(hit.excerpt) <= 202
    assert [hit.excerpt[start:end] for start, end in hit.marks] == ["needle"]


def test_marks_are_where_the_words_are_whatever_the_text(postgres_store: HistoryStore, session: str) -> None:
    user = postgres_store.for_user(session)
    some = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80)

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(some, some)
    def hold(before: str, after: str) -> None:
        name = f"s-{uuid.uuid4()}"
        user.append(name, [HumanMessage(f"{before} needle {after}")])
        (hit,) = user.search("NEEDLE", session_id=name)
        assert "needle" in [hit.excerpt[start:end].lower() for start, end in hit.marks]

    hold()


# --- the index


@pytest.fixture
def indexed(database: str) -> Any:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("select chat_history_index_search('english')")
        with HistoryStore.from_postgres(database, jwt_secret=servers.JWT_SECRET) as store:
            yield store, conn


def test_a_language_knows_forms_of_words_and_may_change(indexed: Any) -> None:
    store, conn = indexed
    store.append("s", [HumanMessage("She was running in the mornings")])
    assert found(store.search("runs morning")) == [("She was running in the mornings", ["running", "mornings"])]
    assert len(store.search("the")) == 1  # no word of that language: the text itself
    for language, number in (("portuguese", 0), ("simple", 0), ("english", 1), (None, 0)):
        conn.execute("select chat_history_index_search(%s::regconfig)", [language])
        assert len(store.search("runs mornings")) == number, language
        assert len(store.search("running mornings")) == 1, language
        row = conn.execute("select to_regclass('chat_history_messages_words') is not null").fetchone()
        assert row == (language is not None,)
    with pytest.raises(psycopg.errors.UndefinedObject):
        conn.execute("select chat_history_index_search('klingon')")


def test_a_language_knows_forms_of_words_and_beginnings_too(indexed: Any) -> None:
    store, conn = indexed
    store.append("s", [HumanMessage("The connection was running")])
    for query in ("connection", "connectio", "connect", "connects", "runn", "running", "is running", "was runn"):
        ((_, marked),) = found(store.search(query))
        assert set(marked) <= {"connection", "running", "was"}, query
        assert {"connection", "running"} & set(marked), query
    assert found(store.search("runn connection")) == []  # only the last word may be a beginning
    conn.execute("select chat_history_index_search('portuguese')")
    store.append("t", [HumanMessage("Preciso de informações sobre as previsões")])
    for query in ("informação", "informações", "informacoes", "informaç", "INFORMACO", "de informação"):
        assert found(store.search(query)) == [("Preciso de informações sobre as previsões", ["informações"])], query
    assert found(store.search("previsões informação"))[0][1] == ["informações", "previsões"]


def test_the_index_is_made_beside_running_writers_or_by_a_script(
    database: str, empty_database: str, indexed: Any
) -> None:
    store, conn = indexed
    conn.execute("update pg_index set indisvalid = false where indexrelid = 'chat_history_messages_words'::regclass")
    store.append("s", [HumanMessage("running late")])
    assert len(store.search("runs")) == 1  # what an interrupted try has left is not used
    migrate(database, search="portuguese")
    assert conn.execute("select chat_history_language()::text, chat_history_has_index()").fetchone() == (
        "portuguese",
        True,
    )
    assert (len(store.search("runs")), len(store.search("running"))) == (0, 1)
    migrate(database, search="portuguese", shares=True)
    migrate(database)
    query = "select chat_history_language()::text, chat_history_shares_open(), chat_history_has_index()"
    assert conn.execute(query).fetchone() == ("portuguese", True, True)
    for bad in ("x'; drop table y", "", 7, "Ünï"):
        with pytest.raises(InvalidInput, match="configuration"):
            migrate(database, search=bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="klingon"):
        migrate(database, search="klingon")
    with psycopg.connect(empty_database, autocommit=True) as other:
        for _ in range(2):
            other.execute(script(search="english", shares=True).encode())
        assert other.execute(query).fetchone() == ("english", True, True)


def test_a_long_message_is_stored_and_found_by_its_beginning(indexed: Any) -> None:
    store, _ = indexed
    words = [f"word{n}" for n in range(300_000)]
    store.append("s", [HumanMessage(" ".join(words)), AIMessage("x" * 3_000_000), AIMessage("é" * 200_000 + " end")])
    assert [hit.message.position for hit in store.search("word17")] == [1]
    assert len(store.search("word299999")) == 0
    assert len(store.load("s")) == 3


FILL = """
with made as (
  insert into chat_history_sessions (session_key, user_id, session_id, last_position, message_count)
    select chat_history_key(u, 's' || i), u, 's' || i, 20, 20
      from unnest(array['ada', 'bob']) u, generate_series(1, %(n)s) i returning session_key, user_id)
insert into chat_history_messages (session_key, user_id, position, id, turn_id, type, data, tokens)
  select session_key, user_id, p, gen_random_uuid(), gen_random_uuid(), 'human',
      json_build_object('content', 'words and word' || p || case user_id when 'ada' then ' apple' else ' pear' end),
      5
    from made, generate_series(1, 20) p
"""


@pytest.mark.parametrize("user", [None, "ada"])
def test_a_search_of_one_user_is_answered_from_the_index(database: str, user: str | None) -> None:
    """As the application, and as a signed-in user: of 40,000 messages none is read that is not the user's."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(FILL, {"n": 1000})
        conn.execute("select chat_history_index_search()")
        if user:
            conn.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps({"sub": user})])
            conn.execute("set role authenticated")
        call = "select chat_history_search(%s, user_id => 'ada')"
        read: dict[str, int] = {}
        for query, number in (("nothing", 0), ("pear", 0), ("word7 apple", 100)):  # 20,000 of bob's have pear in them
            reply = conn.execute(call, [query]).fetchone()
            assert reply is not None
            assert len(reply[0]["items"]) == number
            # The least of three: the server's own work on the catalogue may make one read that again.
            explain = f"explain (analyze, buffers, format json) {call}".encode()
            plans = [conn.execute(explain, [query]).fetchall()[0][0][0]["Plan"] for _ in range(3)]
            read[query] = min(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans)
        assert read["pear"] < read["nothing"] + 100, read


def test_who_may_search_what(indexed: Any, pg: servers.Postgres) -> None:
    """It runs as the tables' owner: who calls it is known all the same, whatever role and claims are set."""
    store, conn = indexed
    for user in ("ada", "bob"):
        store.for_user(user).append("s", [HumanMessage(f"apple of {user}")])
    store.append("s", [HumanMessage("apple of the application")])
    call = "select chat_history_search('apple', user_id => %s)"

    def search(role: str | None, claims: str, user: str | None) -> str:
        with conn.transaction(force_rollback=True):
            conn.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            if role:
                conn.execute(f"set local role {role}")
            try:
                with conn.transaction():
                    reply = conn.execute(call, [user]).fetchone()
                return ",".join(item["message"]["data"]["content"].split()[-1] for item in reply[0]["items"])
            except psycopg.Error as error:
                return error.sqlstate or ""

    name = f"app_{uuid.uuid4().hex[:8]}"
    pg.execute(f"create role {name} login")
    conn.execute("select chat_history_grant(%s)", [name])
    ada = json.dumps({"sub": "ada"})
    assert search(None, "", None) == "application"
    assert search(None, "", "ada") == search("service_role", "", "ada") == "ada"
    assert search("authenticated", ada, None) == search(name, ada, "ada") == "ada"
    for role in ("authenticated", name):
        assert search(role, ada, "bob") == "42501"
        assert search(role, "", None) == search(role, "", "ada") == search(role, "{}", "") == "42501"
    assert search("anon", "", "ada") == "42501"
