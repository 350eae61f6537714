"""The exact format: what is exported and imported again is the same, four ways, also killed half-way or damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import Forbidden, HistoryStore, InvalidInput, Turn
from tests.conftest import Api
from tests.transfer.conversations import exported, fill, parts, read_back, usage


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4()}"


def test_what_is_imported_is_what_was_exported(api: Api, user: str) -> None:
    ada, bob = api.for_user(user), api.for_user(f"{user}-copy")
    names = fill(ada, "s")
    file = exported(ada)
    done = bob.import_sessions(io.BytesIO(file))
    assert (done.sessions, done.known, done.unreadable, done.problems) == (len(names), 0, 0, ())
    assert done.messages == sum(p["kind"] == "message" for p in parts(file))
    for name in names:
        assert read_back(bob.store, name) == read_back(ada.store, name)
    assert parts(exported(bob)) == parts(file)


def test_alternatives_can_be_switched_to_after_an_import(api: Api, user: str) -> None:
    ada, bob = api.for_user(user), api.for_user(f"{user}-copy")
    name = fill(ada, "s")[2]
    bob.import_sessions(io.BytesIO(exported(ada, session_ids=[name])))
    for n in range(len(ada.alternatives(name))):
        for store in (ada, bob):
            store.switch_to(name, store.alternatives(name)[n])
        assert [m.message for m in bob.messages(name)] == [m.message for m in ada.messages(name)]
        assert bob.load(name) == ada.load(name)


def test_done_again_it_stores_nothing(api: Api, user: str) -> None:
    store = api.for_user(user)
    names = fill(store, "s")
    file = exported(store)
    again = store.import_sessions(io.BytesIO(file))
    assert (again.sessions, again.messages, again.unreadable) == (0, 0, 0)
    assert again.known == sum(p["kind"] == "message" for p in parts(file))
    assert parts(exported(store)) == parts(file)
    assert len(store.sessions(archived=None).items) == len(names)


def test_what_was_said_meanwhile_stays_and_what_is_missing_is_added(store: HistoryStore, user: str) -> None:
    ada, bob = store.for_user(user), store.for_user(f"{user}-copy")
    ada.append("s", [HumanMessage("one"), AIMessage("first")])
    bob.import_sessions(io.BytesIO(exported(ada)))
    bob.append("s", [HumanMessage("bob's own")])
    ada.append("s", [HumanMessage("two"), AIMessage("second")])
    done = bob.import_sessions(io.BytesIO(exported(ada)))
    assert (done.sessions, done.messages, done.known) == (0, 2, 2)
    assert [m.message.text for m in bob.messages("s")] == ["one", "first", "bob's own", "two", "second"]
    assert [m.position for m in bob.messages("s")] == [1, 2, 3, 4, 5]
    assert bob.session("s").message_count == 5
    bob.append("s", [HumanMessage("three")])
    assert bob.messages("s").items[-1].position == 6


def test_a_dry_run_counts_and_stores_nothing(api: Api, user: str) -> None:
    ada, bob = api.for_user(user), api.for_user(f"{user}-copy")
    fill(ada, "s")
    file = exported(ada)
    would = bob.import_sessions(io.BytesIO(file), dry_run=True)
    assert bob.sessions(archived=None).items == []
    done = bob.import_sessions(io.BytesIO(file))
    assert would == done


def test_after_a_delete_the_conversation_comes_back(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    name = fill(ada, "s")[0]
    file = exported(ada)
    before = [m.message for m in ada.messages(name)]
    ada.delete_session(name)
    assert ada.import_sessions(io.BytesIO(file)).sessions == 1
    assert [m.message for m in ada.messages(name)] == before
    ada.append(name, [HumanMessage("more")])
    assert [m.message.text for m in ada.messages(name)] == ["hello", "hi", "more"]


def test_a_signed_in_user_takes_their_own_along(api: Api, users: list[tuple[str, str]], session: str) -> None:
    (_, token), (other_id, other_token) = users[0], users[1]
    mine, other = api.as_user(token), api.as_user(other_token)
    mine.append(session, [HumanMessage("mine"), AIMessage("yes")])
    file = exported(mine, session_ids=[session])
    assert {p.get("session_id") for p in parts(file) if p["kind"] == "session"} == {session}
    assert other.import_sessions(io.BytesIO(file)).sessions == 1
    assert [m.message.text for m in other.messages(session)] == ["mine", "yes"]
    assert api.for_user(other_id).session(session).message_count == 2
    with pytest.raises((Forbidden, InvalidInput)):
        exported(other, all_users=True)


def test_an_unbound_store_keeps_the_users_of_the_file(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    ada.append("s", [HumanMessage("hers")])
    file = exported(ada)
    ada.delete_session("s")
    store.import_sessions(io.BytesIO(file))
    assert [m.message.text for m in ada.messages("s")] == ["hers"]
    store.import_sessions(io.BytesIO(file), user_id=f"{user}-2")
    assert [m.message.text for m in store.for_user(f"{user}-2").messages("s")] == ["hers"]
    with pytest.raises(InvalidInput, match="another user"):
        ada.import_sessions(io.BytesIO(file), user_id="someone else")


def test_all_users_with_the_applications_own(api: Api, user: str) -> None:
    api.for_user(user).append(f"{user}-hers", [HumanMessage("hers")])
    api.append(f"{user}-own", [HumanMessage("own")])
    file = exported(api, all_users=True, prefix=user)
    owners = {p["session_id"]: p["user_id"] for p in map(orjson.loads, file.splitlines()) if p["kind"] == "session"}
    assert owners == {f"{user}-hers": user, f"{user}-own": None}
    api.delete_session(f"{user}-own")
    assert api.import_sessions(io.BytesIO(file)).messages == 1
    assert api.session(f"{user}-own").user_id is None


def test_other_content_under_a_known_id_is_reported(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    ada.append("s", [HumanMessage("true")])
    ada.append("t", [HumanMessage("also")])
    file = exported(ada).replace(b'"true"', b'"false"')
    ada.delete_session("t")
    done = ada.import_sessions(io.BytesIO(file))
    assert (done.sessions, done.unreadable) == (1, 1)
    assert "'s'" in done.problems[0]
    assert "other content" in done.problems[0]
    assert [m.message.text for m in ada.messages("s")] == ["true"]


# --- pages and batches


def test_large_conversations_go_in_pages_and_batches(api: Api, user: str) -> None:
    ada, bob = api.for_user(user), api.for_user(f"{user}-copy")
    for n in range(30):
        ada.append("long", [HumanMessage(f"{n} " + "x" * 200_000), *[AIMessage(f"{n}.{k}") for k in range(100)]])
    seen: list[int] = []
    file = exported(ada, progress=lambda so_far: seen.append(so_far.messages))
    assert len(seen) > 1
    assert seen == sorted(seen)
    steps: list[int] = []
    done = bob.import_sessions(io.BytesIO(file), progress=lambda so_far: steps.append(so_far.messages))
    assert (done.sessions, done.messages) == (1, 3030)
    assert len(steps) > 1
    assert parts(exported(bob)) == parts(file)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_files_are_compressed_by_their_name(store: HistoryStore, user: str, tmp_path: Path, suffix: str) -> None:
    ada = store.for_user(user)
    ada.append("s", [HumanMessage("x" * 10_000)])
    path = tmp_path / f"all.jsonl{suffix}"
    done = ada.export_sessions(path)
    assert (done.sessions, done.messages) == (1, 1)
    assert (path.stat().st_size < 5_000) == bool(suffix)
    if suffix == ".gz":
        assert len(parts(gzip.decompress(path.read_bytes()))) == 4
    assert store.for_user(f"{user}-copy").import_sessions(path).messages == 1


@pytest.mark.parametrize("suffix", [".gz", ".GZ", ".zst"])
def test_a_packed_file_that_is_damaged_is_told(store: HistoryStore, user: str, tmp_path: Path, suffix: str) -> None:
    ada = store.for_user(user)
    ada.append("s", [HumanMessage("".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(250)))])
    path = tmp_path / f"all.jsonl{suffix}"
    ada.export_sessions(path)
    packed = bytearray(path.read_bytes())
    assert not packed.startswith(b"{")
    packed[len(packed) // 2] ^= 1
    path.write_bytes(packed)
    try:
        done = store.for_user(f"{user}-copy").import_sessions(path)
    except InvalidInput as error:
        assert "cannot be read" in str(error)  # noqa: PT017
    else:
        assert done.unreadable >= 1


def test_a_conversation_that_is_damaged_twice_is_reported_once(store: HistoryStore, user: str) -> None:
    ada = store.for_user(user)
    ada.append("s", [HumanMessage("q"), AIMessage("a")])
    file = exported(ada).replace(b'"type":', b'"kind_of":').replace(b'"status":"completed"', b'"status":"x"')
    done = store.for_user(f"{user}-copy").import_sessions(io.BytesIO(file))
    assert (done.unreadable, len(done.problems)) == (1, 1)
    assert done.problems[0].startswith("session 's': the status")


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_pipe_is_written_to_and_not_replaced(store: HistoryStore, user: str, tmp_path: Path) -> None:
    ada = store.for_user(user)
    ada.append("s", [HumanMessage("q"), AIMessage("a")])
    pipe = tmp_path / "pipe.jsonl.gz"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_bytes)
        assert ada.export_sessions(pipe).messages == 2
        assert len(parts(gzip.decompress(read.result()))) == 5
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_file_that_is_open_for_text_is_refused(store: HistoryStore, user: str) -> None:
    for call in (store.for_user(user).export_sessions, store.for_user(user).import_sessions):
        with pytest.raises(InvalidInput, match="open it with mode"):
            call(io.StringIO())  # type: ignore[arg-type]


# --- damaged files


def damaged(file: bytes) -> dict[str, tuple[bytes, int]]:
    """Files with something wrong, and how many of their two conversations can be read."""
    lines = file.splitlines(keepends=True)
    second = next(n for n, line in enumerate(lines) if b'"kind":"session"' in line and n > 1)
    deep = b'{"kind":"message","id":' + b"[" * 100_000 + b"\n"

    def changed(line: int, **values: str) -> bytes:
        return b"".join(
            [*lines[:line], orjson.dumps({**orjson.loads(lines[line]), **values}) + b"\n", *lines[line + 1 :]]
        )

    return {
        "cut off in a line": (file[: -len(lines[-1]) - 20], 1),
        "cut off between lines": (b"".join(lines[:-1]), 1),
        "a line is missing": (b"".join([*lines[: second + 1], *lines[second + 2 :]]), 1),
        "byte order mark": (b"\xef\xbb\xbf" + file, 2),
        "crlf": (file.replace(b"\n", b"\r\n"), 2),
        "blank lines": (file.replace(b"\n", b"\n\n"), 2),
        "no JSON": (b"".join([*lines[:2], b"oops\n", *lines[2:]]), 1),
        "latin-1": (b"".join([*lines[:2], b'{"kind":"\xe9"}\n', *lines[2:]]), 1),
        "nested": (b"".join([*lines[:2], deep, *lines[2:]]), 1),
        "too long": (b"".join([*lines[:2], b"x" * (65 * 2**20) + b"\n", *lines[2:]]), 1),
        "no type": (changed(3, type=""), 1),
        "a session of no time": (changed(1, updated_at="infinity"), 1),
        "a turn of no time": (changed(2, started_at="0044-03-15 BC"), 1),
        "a message of no time": (changed(3, created_at="yesterday"), 1),
        "unknown part": (b"".join([*lines[:2], b'{"kind":"picture"}\n', *lines[2:]]), 1),
    }


KINDS = list(damaged(b'{"kind":"session"}\n{"kind":"x"}\n{}\n{}\n{"kind":"session"}\n{}\n'))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_reported_and_the_rest_is_stored(postgres_store: HistoryStore, user: str, kind: str) -> None:
    ada, bob = postgres_store.for_user(user), postgres_store.for_user(f"{user}-copy")
    for name in ("first", "second"):
        ada.append(name, [HumanMessage("é"), AIMessage("a")])
    file, readable = damaged(exported(ada))[kind]
    done = bob.import_sessions(io.BytesIO(file))
    assert done.sessions == readable
    assert (done.unreadable > 0) == (readable < 2), done
    assert len(done.problems) == done.unreadable
    assert bob.import_sessions(io.BytesIO(file), dry_run=True).unreadable == done.unreadable
    for session in bob.sessions().items:
        assert session.message_count == 2  # whole or not at all


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe\x00",
        b"hello",
        b'{"kind":"header","format":"langchain-supabase-history","version":2}',
    ],
)
def test_what_is_no_such_file_is_refused(postgres_store: HistoryStore, user: str, content: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        postgres_store.for_user(user).import_sessions(io.BytesIO(content))
    assert "import" in str(caught.value) or "version 2" in str(caught.value)


def test_arguments_are_checked_before_a_file_is_touched(store: HistoryStore, user: str, tmp_path: Path) -> None:
    ada, path = store.for_user(user), tmp_path / "file"
    options: list[dict[str, Any]] = [
        {"format": "xml"},
        {"rows": "messages"},
        {"format": "csv", "rows": "pages"},
        {"session_ids": ["a"], "query": "b"},
        {"limit": 3},
        {"all_users": True},
        {"session_ids": "abc"},
        {"progress": 1},
    ]
    for wrong in options:
        with pytest.raises(InvalidInput):
            ada.export_sessions(path, **wrong)
    assert not list(tmp_path.iterdir())
    for target in (tmp_path / "no" / "file", 7, None):
        with pytest.raises(InvalidInput):
            ada.export_sessions(target)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="cannot be read"):
        ada.import_sessions(path)


def test_a_broken_off_file_is_never_left_under_its_name(store: HistoryStore, user: str, tmp_path: Path) -> None:
    ada, path = store.for_user(user), tmp_path / "all.jsonl"
    ada.append("s", [HumanMessage("x")])
    path.write_bytes(b"the file before")

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ada.export_sessions(path, progress=stop)
    assert path.read_bytes() == b"the file before"
    assert [p.name for p in tmp_path.iterdir()] == ["all.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
def test_a_full_disk_is_told(store: HistoryStore, user: str, tmp_path: Path) -> None:
    ada = store.for_user(user)
    ada.append("s", [HumanMessage("x")])
    full = tmp_path / "full.jsonl"
    full.symlink_to("/dev/full")
    with pytest.raises(InvalidInput, match="cannot be written: No space left"):
        ada.export_sessions(full)
    assert full.is_char_device()


def test_export_user_is_all_of_a_person(api: Api, user: str) -> None:
    store = api.for_user(user)
    names = fill(store, "s")
    out = io.BytesIO()
    assert api.export_user(user, out).sessions == len(names)
    assert parts(out.getvalue()) == parts(exported(store))


@pytest.mark.soak
def test_ten_thousand_messages_are_the_same_on_both_sides(api: Api, user: str) -> None:
    ada, bob = api.for_user(user), api.for_user(f"{user}-copy")
    for n in range(100):
        turns = [
            m for k in range(50) for m in (HumanMessage(f"{n} {k} é"), AIMessage("x" * k, usage_metadata=usage(k + 1)))
        ]
        stored = ada.append(f"s{n}", turns, turn=Turn(uuid.uuid4(), model="m", total_tokens=n))
        ada.add_feedback(f"s{n}", stored[-1], "helpful", score=n % 2)
    file = exported(ada)
    assert bob.import_sessions(io.BytesIO(file)).messages == 10_000

    def digest(data: bytes) -> str:
        found = hashlib.sha256()
        for part in parts(data):
            found.update(orjson.dumps(part, option=orjson.OPT_SORT_KEYS))
        return found.hexdigest()

    assert digest(exported(bob)) == digest(file)
