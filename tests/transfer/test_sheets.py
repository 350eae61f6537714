"""Google Sheets: the real gspread and google-auth against a Google on this machine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import (
    Conflict,
    Forbidden,
    HistoryError,
    HistoryStore,
    InvalidInput,
    NotConfigured,
    NotFound,
    Unavailable,
)
from langchain_supabase_history.commands.main import main
from langchain_supabase_history.transfer import sheets_google
from langchain_supabase_history.transfer.sheets_table import MAX_CELL, cut
from tests import servers, sheets_server
from tests.conftest import Api
from tests.sheets_server import EMAIL, PEM, Book, Fault, Google, Refused, Sheet
from tests.transfer.conversations import fill

ALL = ("conversations", "messages", "usage", "feedback")


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4()}"


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    """Google, with credentials in the environment; nothing waits."""
    with sheets_server.serve() as found:
        monkeypatch.setenv("GOOGLE_SHEETS_CREDENTIALS", json.dumps(found.account()))
        found.waits = []  # type: ignore[attr-defined]
        monkeypatch.setattr(sheets_google, "pause", found.waits.append)  # type: ignore[attr-defined]
        yield found


def waits(google: Google) -> list[float]:
    found: list[float] = google.waits  # type: ignore[attr-defined]
    return found


def content(book: Book) -> dict[str, list[dict[str, Any]]]:
    """The rows of each worksheet by id, whatever their order."""
    found = {sheet.title: [row for row in sheet.records() if row["id"]] for sheet in book.sheets if sheet.title in ALL}
    return {title: sorted(rows, key=lambda row: str(row["id"])) for title, rows in found.items()}


def assert_complete(store: Any, names: list[str], book: Book) -> None:
    """Everything that the store has is in the spreadsheet, once."""
    found = content(book)
    for rows in found.values():
        assert len({row["id"] for row in rows}) == len(rows)
    current = [row for row in found["messages"] if row["in_conversation"]]
    stored = {str(m.id): (name, m.position) for name in names for m in store.messages(name, limit=1000)}
    assert {row["id"]: (row["session_id"], row["position"]) for row in current} == stored
    assert {row["session_id"] for row in found["conversations"]} == set(names)
    feedback = {str(f.id): f.key for name in names for f in store.feedback(name)}
    assert {row["id"]: row["key"] for row in found["feedback"]} == feedback
    (usage,) = store.usage()
    assert sum(row["turns"] for row in found["usage"]) == usage.turns
    assert sum(row["total_tokens"] or 0 for row in found["usage"]) == (usage.total_tokens or 0)


def test_everything_is_written_and_again_nothing(api: Api, user: str, google: Google) -> None:
    store, key = api.for_user(user), google.book()
    names = fill(store, "s")
    done = store.export_sheets(key, archived=None)
    book = google.books[key]
    assert_complete(store, names, book)
    total = sum(map(len, content(book).values()))
    assert (done.sessions, done.added, done.updated, done.cut) == (len(names), total, 0, 0)
    assert done.url == f"https://docs.google.com/spreadsheets/d/{key}"
    for title in ALL:
        sheet = book.sheet(title)
        assert sheet.frozen == 1
        assert {sheet.cells[0][n] for n in sheet.hidden} == {"checksum"}
    before, calls = json.dumps([s.cells for s in book.sheets]), len(google.calls)
    again = store.export_sheets(key, archived=None)
    assert (again.sessions, again.added, again.updated) == (len(names), 0, 0)
    assert json.dumps([s.cells for s in book.sheets]) == before
    assert not {"values", "appendCells", "addSheet", "updateCells"} & set(google.calls[calls:])


def test_text_is_text_and_numbers_are_numbers(store: HistoryStore, user: str, google: Google) -> None:
    ada, key = store.for_user(user), google.book()
    texts = ["=1+1", "+1", "-1", "@x", "'quoted", "1e5", "TRUE", "2026-01-01", " ", "é😀\x00\ud800", '=IMPORTXML("x")']
    ada.append("=s()", [HumanMessage(text) for text in texts])
    ada.export_sheets(key)
    rows = google.books[key].sheet("messages").records()
    assert [row["text"] for row in rows] == [*texts[:-2], "é😀��", texts[-1]]
    assert [row["position"] for row in rows] == list(range(1, len(texts) + 1))
    assert {row["session_id"] for row in rows} == {"=s()"}
    ada.update_session("=s()", title="=HYPERLINK()")
    ada.export_sheets(key)
    assert [row["title"] for row in google.books[key].sheet("conversations").records()] == ["=HYPERLINK()"]


def test_rows_that_a_person_moved_are_found_again(store: HistoryStore, user: str, google: Google) -> None:
    ada, key = store.for_user(user), google.book()
    names = fill(ada, "s")
    ada.export_sheets(key, archived=None)
    book, order = google.books[key], random.Random(7)
    counts = {title: len(rows) for title, rows in content(book).items()}
    for sheet in book.sheets[1:]:
        header, *rows = sheet.cells
        columns = order.sample(range(len(header)), len(header))
        sheet.columns, sheet.rows = (
            sheet.columns + 2,
            sheet.rows + 2,
        )  # columns are moved, rows sorted, notes taken beside them and below, and a row left empty
        header, *rows = ([line[c] if c < len(line) else None for c in columns] for line in (header, *rows))
        order.shuffle(rows)
        notes = [[f"note on {line[header.index('id')]}", *line] for line in rows]
        sheet.cells = [["notes", *header], *notes[:1], [], *notes[1:], ["a note of its own"]]
    ada.append(names[0], [HumanMessage("more"), AIMessage("certainly")])
    ada.rewind_session(names[1], before=4)
    ada.update_session(names[-1], title="=new")
    done = ada.export_sheets(key, archived=None)
    assert done.added == 2
    assert_complete(ada, names, book)
    for sheet in book.sheets[1:]:
        assert sheet.cells[0][0] == "notes"
        assert {row["notes"] for row in sheet.records()} - {None, "a note of its own"} <= {
            f"note on {row['id']}" for row in sheet.records()
        }
        assert sum(str(line[0]).startswith("note on") for line in sheet.cells if line) == counts[sheet.title]
    gone = [row for row in book.sheet("messages").records() if row["in_conversation"] is False]
    assert {row["session_id"] for row in gone} == {names[1], names[2]}
    again = ada.export_sheets(key, archived=None)
    assert (again.added, again.updated) == (0, 0)


def test_a_row_that_moves_between_reading_and_writing(store: HistoryStore, user: str, google: Google) -> None:
    ada, key = store.for_user(user), google.book()
    for n in range(5):
        ada.append(f"s{n}", [HumanMessage(str(n))])
    ada.export_sheets(key)
    for n in range(5):
        ada.append(f"s{n}", [HumanMessage("more")])
    sheet = google.books[key].sheet("conversations")
    seen: list[int] = []

    def sort(so_far: Any) -> None:
        if not seen:
            sheet.cells[1:] = reversed(sheet.cells[1:])
            del sheet.cells[3]
        seen.append(so_far.sessions)

    done = ada.export_sheets(key, progress=sort)
    assert_complete(ada, [f"s{n}" for n in range(5)], google.books[key])
    assert [row["messages"] for row in sheet.records()] == [2] * 5
    assert seen == sorted(seen)
    assert done.sessions == 5


# --- limits


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.integers(0, 3))
def test_a_cell_holds_what_is_left_of_a_text(unit: str, more: int) -> None:
    text = unit * (MAX_CELL // max(1, len(unit)) + more - 1)
    found = cut(text)
    units = len(found.encode("utf-16-le")) // 2
    assert units <= MAX_CELL
    if len(text.encode("utf-16-le")) // 2 <= MAX_CELL:
        assert found == text
    else:
        assert found.endswith(f"... [cut, {len(text)} characters in all]")
        assert text.startswith(found[: -len(f"... [cut, {len(text)} characters in all]")])
        assert units >= MAX_CELL - 1


def test_long_texts_are_cut_and_requests_stay_small(api: Api, user: str, google: Google) -> None:
    store, key = api.for_user(user), google.book()
    store.append("long", [HumanMessage("é" * 60_000) for _ in range(60)])
    done = store.export_sheets(key, worksheets=["messages"])
    assert done.cut == 60
    assert max(google.sizes) < 2_000_000
    rows = google.books[key].sheet("messages").records()
    assert len(rows) == 60
    assert all(len(row["text"]) == MAX_CELL and row["text"].endswith("60000 characters in all]") for row in rows)
    assert [sheet.title for sheet in google.books[key].sheets] == ["Sheet1", "messages"]
    assert store.export_sheets(key, worksheets=["messages"]).updated == 0


def test_calls_wait_before_the_quota_is_used_up(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [1000.0], list[float]()

    def pause(seconds: float) -> None:
        assert 0 < seconds <= 60
        now[0] += seconds

    monkeypatch.setattr(sheets_google, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sheets_google, "pause", pause)
    google.after = lambda call: written.append(now[0]) if call == "appendCells" else None
    book = sheets_google.open_spreadsheet(google.account(), google.book())
    for _ in range(150):
        now[0] += 0.1
        book.patiently(lambda: book.change([{"appendCells": {"sheetId": 0, "rows": [], "fields": "userEnteredValue"}}]))
    book.close()
    assert len(written) == 150
    assert max(sum(start <= at < start + 60 for at in written) for start in written) <= 60
    assert now[0] < 1000 + 60 * 3


# --- trouble


BUSY = [(Refused(429, "Quota exceeded"), False), (Refused(503), False), (Refused(500), True), (None, True)]


@pytest.mark.parametrize(("answer", "applied"), BUSY, ids=["429", "503", "500-and-done", "broken-and-done"])
@pytest.mark.parametrize(
    "word", ["token", "addSheet", "appendCells", "values:batchUpdate", "values:batchGet", "drive", "permissions"]
)
def test_trouble_passes_and_nothing_is_written_twice(
    postgres_store: HistoryStore, user: str, google: Google, word: str, answer: Refused | None, applied: bool
) -> None:
    ada = postgres_store.for_user(user)
    names = fill(ada, "s")
    google.faults = [Fault(word, answer, times=2, applied=applied)]
    options: dict[str, Any] = {"archived": None, "create": True, "share_with": "ada@example.com"}
    done = ada.export_sheets("Chats of Ada", **options)
    ((key, book),) = google.books.items()
    assert str(done.url).endswith(key)
    ada.append(names[0], [HumanMessage("more")])
    ada.export_sheets("Chats of Ada", **options)
    assert_complete(ada, names, book)
    assert [fault.times for fault in google.faults] == [0]
    assert sorted(sheet.title for sheet in book.sheets) == sorted(ALL)
    assert book.editors == {EMAIL, "ada@example.com"}


def test_a_quota_that_stays_used_up_is_an_error(store: HistoryStore, user: str, google: Google) -> None:
    ada, key = store.for_user(user), google.book()
    ada.append("s", [HumanMessage("hello")])
    google.faults = [Fault("appendCells", Refused(429), times=99)]
    with pytest.raises(Unavailable, match="quota") as caught:
        ada.export_sheets(key)
    assert caught.value.code == "429"
    assert 60 < sum(waits(google)) < 600
    google.faults = []
    ada.export_sheets(key)
    assert_complete(ada, ["s"], google.books[key])


def told(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{error} {error!r} {error.args}"
        error = error.__cause__


REFUSALS: list[tuple[Any, type[HistoryError], str]] = [
    (Refused(403, status="PERMISSION_DENIED"), Forbidden, f"Share, and add {EMAIL}"),
    (Refused(403, details=[{"reason": "SERVICE_DISABLED"}]), Forbidden, "enable the Google Sheets API"),
    (Refused(403, errors=[{"reason": "storageQuotaExceeded"}]), Forbidden, "Make one yourself"),
    (Refused(401), Forbidden, "refused"),
    (Refused(404), NotFound, f"add {EMAIL}"),
    (Refused(400, "above the limit of 10000000 cells"), HistoryError, "ten million"),
    (Refused(400, "You are trying to edit a protected cell"), HistoryError, "protected or merged"),
]


@pytest.mark.parametrize(("answer", "kind", "says"), REFUSALS, ids=range(len(REFUSALS)))
def test_what_google_refuses_says_what_to_do(
    api: Api, user: str, google: Google, answer: Refused, kind: type[HistoryError], says: str
) -> None:
    store, key = api.for_user(user), google.book()
    google.faults = [Fault(f"/{key}", answer, times=99)]
    with pytest.raises(kind, match=says) as caught:
        store.export_sheets(key)
    assert waits(google) == []
    assert not any(PEM[40:80] in text for text in told(caught.value))


def test_a_spreadsheet_that_is_not_shared(store: HistoryStore, user: str, google: Google) -> None:
    ada = store.for_user(user)
    read_only, hidden = google.book(editors=set()), google.book("Hidden", readers=set())
    with pytest.raises(Forbidden, match=EMAIL):
        ada.export_sheets(read_only)
    for name in (hidden, f"https://docs.google.com/spreadsheets/d/{hidden}/edit#gid=0", "Hidden", "No 'such\\ one"):
        with pytest.raises(NotFound, match=EMAIL):
            ada.export_sheets(name)


def test_by_id_url_or_name(store: HistoryStore, user: str, google: Google) -> None:
    ada, name = store.for_user(user), "It's \"Ada's\" \\ own"
    key = google.book(name)
    google.book(name, trashed=True)
    google.book(name.upper())
    for spreadsheet in (key, f"https://docs.google.com/spreadsheets/d/{key}/edit?gid=7#gid=7", name):
        assert str(ada.export_sheets(spreadsheet).url).endswith(key)
    google.book(name)
    with pytest.raises(InvalidInput, match="2 spreadsheets"):
        ada.export_sheets(name)
    with pytest.raises(InvalidInput, match="URL"):
        ada.export_sheets("https://example.com/sheet")


def test_made_and_shared_once(api: Api, user: str, google: Google) -> None:
    store = api.for_user(user)
    people = ["ada@example.com", "bob@example.com"]
    for _ in range(2):
        done = store.export_sheets("a-name-that-might-well-be-an-id-of-one", create=True, share_with=people)
    ((key, book),) = google.books.items()
    assert str(done.url).endswith(key)
    assert book.editors == {EMAIL, *people}
    assert google.calls.count("share") == 2
    assert [sheet.title for sheet in book.sheets] == list(ALL)
    assert [sheet.cells[0][-1] for sheet in book.sheets] == ["checksum"] * 4


def test_credentials_are_found_and_never_told(
    store: HistoryStore, user: str, google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, key, good = store.for_user(user), google.book(), google.account()
    file = tmp_path / "key.json"
    file.write_text("\ufeff" + json.dumps(good))
    escaped = {**good, "private_key": PEM.replace("\n", "\\n")}
    for credentials in (good, json.dumps(good), f"\n {json.dumps(good)}\n", str(file), file, escaped):
        assert str(ada.export_sheets(key, credentials=credentials).url).endswith(key)
    monkeypatch.setenv("GOOGLE_SHEETS_CREDENTIALS", str(file))
    assert str(ada.export_sheets(key).url).endswith(key)
    other = {**good, "private_key": PEM[:400] + PEM[500:]}
    bad: list[Any] = [
        {},
        other,
        {**good, "type": "authorized_user"},
        {**good, "private_key": 7},
        {**good, "token_uri": "x"},
        json.dumps(good)[:-9],
        PEM,
    ]
    bad += [{n: v for n, v in good.items() if n != "client_email"}, "[" * 5000, "{" * 5000, "no such file", "7", ""]
    for credentials in bad:
        with pytest.raises((NotConfigured, InvalidInput)) as caught:
            ada.export_sheets(key, credentials=credentials)
        assert not any(PEM[40:80] in text or PEM[-80:-40] in text for text in told(caught.value))
    monkeypatch.delenv("GOOGLE_SHEETS_CREDENTIALS")
    with pytest.raises(NotConfigured, match="GOOGLE_SHEETS_CREDENTIALS"):
        ada.export_sheets(key)
    google.faults = [Fault("/token", Refused(400, "invalid_grant"), times=99)]
    with pytest.raises(Forbidden, match="make a new key") as refused:
        ada.export_sheets(key, credentials=good)
    assert not any(PEM[40:80] in text for text in told(refused.value))
    nowhere = google.account(token_uri=f"http://127.0.0.1:{servers.free_port()}/token")
    with pytest.raises(Unavailable, match="could not be reached"):
        ada.export_sheets(key, credentials=nowhere)
    assert 10 < sum(waits(google)) < 30


def test_without_gspread_it_says_what_to_install(
    store: HistoryStore, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "langchain_supabase_history.transfer.sheets_google", None)
    monkeypatch.delattr("langchain_supabase_history.transfer.sheets_google")
    with pytest.raises(NotConfigured, match=r"\[sheets\]"):
        store.export_sheets("x")


# --- whose, and where


def test_a_worksheet_of_others_is_left_alone(store: HistoryStore, user: str, google: Google) -> None:
    ada, key = store.for_user(user), google.book()
    ada.append("s", [HumanMessage("hello")])
    book = google.books[key]
    book.sheets.append(Sheet(5, "messages", cells=[["my", "own"], [1, 2]]))
    with pytest.raises(Conflict, match="messages"):
        ada.export_sheets(key)
    assert book.sheet("messages").cells == [["my", "own"], [1, 2]]
    book.sheets.append(Sheet(6, "It's empty", rows=1, columns=3))
    ada.export_sheets(key, worksheets={"messages": "It's empty"})
    ada.export_sheets(key, worksheets={"messages": "IT'S EMPTY"})
    sheet = book.sheet("It's empty")
    assert [row["text"] for row in sheet.records()] == ["hello"]
    assert sheet.frozen == 1


def test_columns_and_rows_that_a_person_removed_come_back(store: HistoryStore, user: str, google: Google) -> None:
    ada, key = store.for_user(user), google.book()
    ada.append("s", [HumanMessage(str(n)) for n in range(5)])
    ada.export_sheets(key)
    sheet = google.books[key].sheet("messages")
    column = sheet.cells[0].index("text")
    for line in sheet.cells:
        del line[column]
    sheet.columns -= 1
    del sheet.cells[2]
    done = ada.export_sheets(key)
    assert (done.added, done.updated) == (1, 4)
    assert sorted(row["text"] for row in sheet.records()) == list("01234")


def test_users_keep_apart_in_one_spreadsheet(api: Api, user: str, google: Google) -> None:
    key, others = google.book(), [f"{user}-1", f"{user}-2"]
    for other in others:
        api.for_user(other).append("s", [HumanMessage(f"of {other}"), AIMessage("hi", usage_metadata=None)])
        api.for_user(other).export_sheets(key)
    found = content(google.books[key])
    assert {name: len(rows) for name, rows in found.items()} == {
        "conversations": 2,
        "messages": 4,
        "usage": 2,
        "feedback": 0,
    }
    assert {row["user_id"] for row in found["usage"]} == set(others)
    api.export_sheets(key, session_ids=[user])
    assert len(content(google.books[key])["conversations"]) == 2
    rows = {row["user_id"] for row in content(google.books[key])["usage"]}
    assert rows - {None} == set(others), "the application's own usage, and not everybody's"


def test_a_signed_in_user_exports_their_own(
    api: Api, users: list[tuple[str, str]], session: str, google: Google
) -> None:
    (ada, token), (bob, _) = users[0], users[1]
    api.for_user(bob).append(session, [HumanMessage("bob's")])
    api.as_user(token).append(session, [HumanMessage("ada's")])
    key = google.book()
    api.as_user(token).export_sheets(key, prefix=session)
    found = content(google.books[key])
    assert [row["text"] for row in found["messages"]] == ["ada's"]
    assert {row["user_id"] for row in found["usage"]} == {ada}


def test_bad_filters_are_refused_before_anything_is_made(store: HistoryStore, user: str, google: Google) -> None:
    for bad in ({"all_users": True}, {"since": "yesterday"}, {"session_ids": ["s"], "query": "x"}, {"tags": 7}):
        with pytest.raises(InvalidInput):
            store.for_user(user).export_sheets("New", create=True, **bad)
    assert google.books == {}
    assert google.calls == []


# --- interrupted


CHILD = """
import sys
from langchain_supabase_history import HistoryStore
from tests.sheets_server import redirected

url, conninfo, user, key = sys.argv[1:]
with redirected(url), HistoryStore.from_postgres(conninfo) as store:
    store.for_user(user).export_sheets(key)
"""


@pytest.mark.parametrize("nth", [1, 2, 4])
def test_killed_halfway_and_run_again_it_is_complete(
    postgres_store: HistoryStore, shared_database: str, user: str, google: Google, nth: int
) -> None:
    ada, key = postgres_store.for_user(user), google.book()
    for n in range(6):
        ada.append(f"s{n}", [HumanMessage("x" * 40_000) for _ in range(20)])
    command = [sys.executable, "-c", CHILD, google.url, shared_database, user, key]
    child: subprocess.Popen[bytes] | None = None
    seen: list[str] = []

    def kill(call: str) -> None:
        seen.append(call)
        if seen.count("appendCells") == nth and call == "appendCells":
            assert child is not None
            os.kill(child.pid, signal.SIGKILL)

    with google.lock:  # no call is answered before its process is known
        google.after = kill
        child = subprocess.Popen(command, cwd=servers.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, output.decode()
    google.after = lambda call: None
    written = len(google.books[key].sheet("messages").records())
    assert 0 < written < 120
    done = ada.export_sheets(key)
    assert_complete(ada, [f"s{n}" for n in range(6)], google.books[key])
    assert done.messages == 120
    again = ada.export_sheets(key)
    assert (again.added, again.updated) == (0, 0)


def test_the_command(database: str, google: Google) -> None:
    key = google.book()
    with HistoryStore.from_postgres(database) as store:
        store.for_user("ada").append("s", [HumanMessage("q"), AIMessage("a")])
    words = ["export", "sheets", key, "--user", "ada", "--worksheet", "conversations", "--worksheet", "messages"]
    runner = CliRunner(env={"SUPABASE_DB_URL": database})
    done = runner.invoke(main, words, catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (
        0,
        f"3 rows added, 0 updated: https://docs.google.com/spreadsheets/d/{key}\n",
    )
    again = runner.invoke(main, [*words, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["added"] == 0
    missing = runner.invoke(main, ["export", "sheets", "no such book"])
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: ")
