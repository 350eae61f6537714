"""The commands about conversations: on a terminal, in a pipe, as JSON, and where something is wrong."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import click
import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_supabase_history import HistoryStore, NotFound, Turn
from langchain_supabase_history.commands.main import main
from scripts import commands as page
from tests import servers
from tests.transfer.conversations import CALL

COMMAND = str(Path(sys.executable).with_name("langchain-supabase-history"))
ODD = "odd\tname\nwith \x1b[31mcolour"


@pytest.fixture(scope="module")
def url(pg: servers.Postgres) -> str:
    """A database with two users' conversations."""
    made = pg.url(pg.create_database("template_history"))
    with HistoryStore.from_postgres(made) as store:
        ada = store.for_user("ada")
        ada.append(
            "trip",
            [
                HumanMessage("Where should we go in São Paulo?"),
                AIMessage("", tool_calls=[CALL]),
                ToolMessage("a very long result " * 20, tool_call_id="c1"),
                AIMessage("To the market.\x1b[2J"),
            ],
            turn=Turn(uuid.uuid4(), model="m-1", total_tokens=1234),
        )
        ada.append(ODD, [HumanMessage("x" * 5000)])
        store.for_user("bob").append("bread", [HumanMessage("How?"), AIMessage("So.")])
        store.append("own", [HumanMessage("the application's")])
    return made


def run(*words: str, url: str, stdin: str | None = "") -> subprocess.CompletedProcess[str]:
    """A command whose output goes to pipes."""
    environ = {**os.environ, "SUPABASE_DB_URL": url, "COLUMNS": "80"}
    return subprocess.run(
        [COMMAND, *words], input=stdin, capture_output=True, text=True, env=environ, timeout=60, check=False
    )


def terminal(*words: str, url: str, answer: str = "") -> tuple[int, str]:
    """A command on a pseudo-terminal: its status and what is seen."""
    parent, child = pty.openpty()
    environ = {**os.environ, "SUPABASE_DB_URL": url, "COLUMNS": "100", "TERM": "xterm-256color"}
    with subprocess.Popen([COMMAND, *words], stdin=child, stdout=child, stderr=child, env=environ) as process:
        os.close(child)
        seen = bytearray()

        def read() -> None:
            try:
                while part := os.read(parent, 65536):
                    seen.extend(part)
            except OSError:  # its other end is closed
                return

        reader = threading.Thread(target=read)
        reader.start()
        os.write(parent, answer.encode())
        status = process.wait(60)
        reader.join(10)
    os.close(parent)
    return status, seen.decode()


def rows(text: str) -> list[dict[str, str]]:
    head, *lines = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_a_list_in_a_pipe_is_a_line_a_conversation(url: str) -> None:
    done = run("sessions", "--user", "ada", url=url)
    assert (done.returncode, done.stderr) == (0, "")
    odd, trip = rows(done.stdout)
    assert (trip["session"], trip["user"], trip["messages"], trip["tokens"]) == ("trip", "ada", "4", "1234")
    assert odd["session"] == "odd name with  [31mcolour"
    everybody = rows(run("sessions", "--all-users", "--order", "created", url=url).stdout)
    assert [row["user"] for row in everybody] == ["-", "bob", "ada", "ada"]
    assert [row["session"] for row in rows(run("sessions", "--all-users", "--query", "PAULO", url=url).stdout)] == [
        "trip"
    ]
    assert len(rows(run("sessions", "--all-users", "--limit", "2", url=url).stdout)) == 2


def test_a_list_on_a_terminal_is_a_table(url: str) -> None:
    status, seen = terminal("sessions", "--user", "ada", url=url)
    assert status == 0
    assert "1,234" in seen
    assert "\x1b[31m" not in seen  # a name cannot colour the terminal
    assert "trip" in seen


def test_json_for_programs(url: str) -> None:
    listed = json.loads(run("sessions", "--all-users", "--json", url=url).stdout)
    assert {one["session_id"] for one in listed} == {"trip", ODD, "bread", "own"}
    shown = json.loads(run("show", "trip", "--user", "ada", "--json", url=url).stdout)
    assert [one["type"] for one in shown["messages"]] == ["human", "ai", "tool", "ai"]
    found = json.loads(run("search", "sao", "--user", "ada", "--json", url=url).stdout)
    assert [(hit["session_id"], hit["position"]) for hit in found] == [("trip", 1)]


def test_a_transcript(url: str) -> None:
    done = run("show", "trip", "--user", "ada", url=url)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "Where should we go in São Paulo?"
    assert [line for line in lines if line in ("human", "ai", "tool")] == ["human", "ai", "tool", "ai"]
    assert '→ search {"q":"x"}' in lines
    assert max(map(len, lines)) < 120  # a result is folded
    assert "\x1b" not in done.stdout
    full = run("show", "trip", "--user", "ada", "--full", "--times", "--tokens", url=url).stdout
    assert "a very long result " * 20 in full
    assert re.search(r"^human  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", full, re.MULTILINE)
    assert "(completed, m-1, 1,234 tokens)" in full
    status, seen = terminal("show", "trip", "--user", "ada", url=url)
    assert status == 0
    assert "\x1b[1;36mhuman" in seen
    assert "\x1b[2J" not in seen


def test_search(url: str) -> None:
    (hit,) = rows(run("search", "market", "--user", "ada", url=url).stdout)
    assert (hit["session"], hit["type"]) == ("trip", "ai")
    assert rows(run("search", "market", "--user", "bob", url=url).stdout) == []
    assert terminal("search", "market", "--user", "ada", url=url)[0] == 0


def test_rename_fork_and_delete(url: str) -> None:
    assert (
        run("fork", "trip", "copy", "--user", "ada", "--upto", "1", url=url).stdout == "copy has 1 messages of trip.\n"
    )
    assert run("rename", "copy", "A copy", "--user", "ada", url=url).returncode == 0
    assert [row["title"] for row in rows(run("sessions", "--user", "ada", "--prefix", "copy", url=url).stdout)] == [
        "A copy"
    ]
    again = run("fork", "trip", "copy", "--user", "ada", url=url)
    assert again.returncode == 1
    assert again.stderr.startswith("Error: ")
    assert len(again.stderr.splitlines()) == 1
    refused = run("delete", "copy", "--user", "ada", url=url)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    status, seen = terminal("delete", "copy", "--user", "ada", url=url, answer="n\n")
    assert status == 1
    assert "Delete 1 conversation for good?" in seen
    status, _ = terminal("delete", "copy", "--user", "ada", url=url, answer="y\n")
    assert status == 0
    done = run("delete", "copy", "nothing", "--user", "ada", "--yes", "--json", url=url)
    assert (done.returncode, json.loads(done.stdout)) == (1, {"copy": False, "nothing": False})


def test_hand_over_and_delete_a_user(url: str) -> None:
    with HistoryStore.from_postgres(url) as store:
        store.for_user("guest").append("mine", [HumanMessage("q")])
        store.for_user("guest").append("trip", [HumanMessage("q")])
        would = run("reassign", "guest", "account", "--dry-run", url=url).stdout
        assert would == "Would hand over 2 sessions with 2 messages; 0 renamed.\n"
        assert run("reassign", "guest", "account", "--session", "mine", url=url).returncode == 0
        assert json.loads(run("reassign", "guest", "account", "--json", url=url).stdout)["sessions"] == 1
        assert len(store.for_user("account").sessions().items) == 2
        assert run("delete-user", "account", "--yes", url=url).stdout == "Deleted 2 sessions with 2 messages.\n"
        assert store.for_user("account").sessions().items == []


def test_export_and_import(url: str, pg: servers.Postgres, tmp_path: Path) -> None:
    other = pg.url(pg.create_database("template_history"))
    done = run("export", "conversations", str(tmp_path / "all.jsonl.gz"), "--all-users", "--all", url=url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "4 conversations with 8 messages\n")
    done = run("import", str(tmp_path / "all.jsonl.gz"), url=other)
    assert done.stdout == "Stored 8 messages in 4 new conversations; 0 known.\n"
    assert len(rows(run("sessions", "--all-users", url=other).stdout)) == 4
    piped = run("export", "conversations", "-", "--session", "trip", "--user", "ada", "--format", "markdown", url=url)
    assert piped.stdout.startswith("# ")
    assert piped.stderr == "1 conversations with 4 messages\n"
    sent = run("import", "-", "--user", "eve", url=other, stdin='[{"role": "user", "content": "q"}]')
    assert sent.stdout.startswith("Stored 1 messages in 1 new")
    table = run("export", "conversations", str(tmp_path / "t.csv"), "--user", "ada", "--rows", "conversations", url=url)
    assert table.returncode == 0
    with (tmp_path / "t.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 3
    person = run("export", "user", "ada", str(tmp_path / "ada.html"), "--json", url=url)
    assert json.loads(person.stdout) == {"sessions": 2, "messages": 5}
    assert "</html>" in (tmp_path / "ada.html").read_text()


def test_names_and_filters_are_not_given_both(url: str) -> None:
    for words in (("--query", "x"), ("--archived",), ("--all-users",)):
        done = run("export", "conversations", "-", "--session", "trip", *words, url=url)
        assert (done.returncode, done.stdout) == (1, "")
        assert "session_ids or filters, not both" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
@pytest.mark.parametrize("words", ["sessions --all-users", "export conversations - --all-users"])
def test_a_full_disk_is_one_line(url: str, words: str) -> None:
    environ = {**os.environ, "SUPABASE_DB_URL": url}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [COMMAND, *words.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
            timeout=60,
            check=False,
        )
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "Error: The output: No space left on device."


def test_what_cannot_be_imported_is_named(url: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('[{"session_id": "x", "messages": [7]}]')
    done = run("import", str(path), "--user", "eve", url=url)
    assert done.returncode == 1
    assert done.stderr == "Not read: conversation 1: it holds a int where a message should be\n"
    missing = run("import", str(tmp_path / "missing.json"), url=url)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (1, 1)
    assert "cannot be read" in missing.stderr


def test_a_table_is_imported(url: str, pg: servers.Postgres) -> None:
    source = pg.url(pg.create_database())
    with psycopg.connect(source) as conn:
        conn.execute("create table history (id serial, session_id text, message jsonb)")
        conn.execute("""insert into history (session_id, message) values ('s', '{"type": "human", "content": "q"}')""")
    done = run("import", "table", "history", "--from", source, "--user", "tables", "--dry-run", url=url)
    assert done.stdout == "Would store 1 messages in 1 new conversations; 0 known.\n"
    assert (
        json.loads(run("import", "table", "history", "--from", source, "--user", "t", "--json", url=url).stdout)[
            "messages"
        ]
        == 1
    )


def test_thirty_thousand_conversations_are_listed_page_by_page(pg: servers.Postgres) -> None:
    many = pg.create_database("template_history")
    pg.execute(
        "insert into chat_history_sessions (session_key, user_id, session_id, title, created_at, updated_at) "
        "select chat_history_key('', 's' || n), '', 's' || n, 't', now() - n * interval '1 s', "
        "now() - n * interval '1 s' "
        "from generate_series(1, 30000) n",
        many,
    )
    done = run("sessions", "--limit", "0", url=pg.url(many))
    listed = [row["session"] for row in rows(done.stdout)]
    assert listed == [f"s{n}" for n in range(1, 30001)]


def test_migrate_check_changes_nothing(url: str, empty_database: str) -> None:
    done = run("migrate", "--check", url=empty_database)
    assert done.returncode == 1
    assert done.stdout.startswith("missing 0001_tables\n")
    assert json.loads(run("migrate", "--check", "--json", url=empty_database).stdout)["missing"][0] == "0001_tables"
    with psycopg.connect(empty_database) as conn:
        assert conn.execute("select to_regclass('chat_history_sessions')").fetchone() == (None,)
    assert run("migrate", "--check", url=url).returncode == 0


def test_an_embedded_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for words in (["usage"], ["sessions"], ["show", "x"]):
        done = run(*words, "--local", str(tmp_path / "none"), url="")
        assert done.returncode == 1
        assert "There is no embedded database" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_exist_is_one_line(url: str) -> None:
    for words in (["show", "nothing"], ["rename", "nothing", "x"], ["fork", "nothing", "copy"]):
        done = run(*words, url=url)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert NotFound.__name__ not in done.stderr


ON_A_TERMINAL = {
    "migrate --check": "is up to date",
    "sessions --user ada": "trip",
    "show trip --user ada": "market",
    "search market --user ada": "trip",
    "rename bread Loaf --user bob": "Loaf",
    "fork bread loaf-2 --user bob": "loaf-2 has",
    "delete loaf-2 --user bob --yes": "deleted",
    "delete-user nobody --yes": "Deleted 0 sessions",
    "reassign nobody somebody": "Handed over 0 sessions",
    "usage --by user": "ada",
    "prune": "remove",
    "export conversations {folder}/all.jsonl --all-users": "conversations with",
    "export user ada {folder}/ada.md": "2 conversations with",
    "import {folder}/all.jsonl": "known",
    "import table public.chat_history_messages --user ada": "none that is known",
}


@pytest.mark.parametrize("words", ON_A_TERMINAL)
def test_every_command_on_a_terminal(url: str, tmp_path_factory: pytest.TempPathFactory, words: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "terminal"
    folder.mkdir(exist_ok=True)
    if "import {" in words:
        run("export", "conversations", str(folder / "all.jsonl"), "--all-users", url=url)
    status, seen = terminal(*words.format(folder=folder).split(), url=url)
    assert ON_A_TERMINAL[words] in seen
    assert status == int("table" in words)
    assert "Traceback" not in seen


def test_every_command_is_tried_on_a_terminal() -> None:
    tried = [tuple(words.split()) for words in ON_A_TERMINAL]
    for words, _ in page.leaves(main):
        if words in (("import", "file"), ("export", "sheets"), ("import", "langsmith"), ("export", "traces")):
            continue  # the first is `import FILE`; the others are tried with the servers that they need
        if words[0] not in ("demo", "doctor", "outbox"):
            assert any(one[: len(words)] == words for one in tried), words


# --- help, completion, the module


def test_the_page_about_commands_is_what_they_say() -> None:
    assert page.PAGE.read_text() == page.page(), "run: python -m scripts.commands"


def test_every_command_about_a_database_takes_the_same_options() -> None:
    for words, command in page.leaves(main):
        names = {name for parameter in command.params for name in parameter.opts}
        if words[0] in ("migrate", "demo") or words == ("export", "traces"):
            continue
        assert {"--db-url", "--local", "--schema"} <= names, words
        if words[0] not in ("doctor", "outbox", "delete-user") and words not in (
            ("export", "user"),
            ("import", "langsmith"),
        ):
            assert "--user" in names, words
        if words != ("import", "langsmith"):
            assert "--json" in names, words


def test_completion_in_the_shell() -> None:
    environ = {**os.environ, "_LANGCHAIN_SUPABASE_HISTORY_COMPLETE": "bash_source"}
    done = subprocess.run([COMMAND], capture_output=True, text=True, env=environ, timeout=60, check=True)
    assert "complete -o nosort -F" in done.stdout
    asked = {
        **os.environ,
        "_LANGCHAIN_SUPABASE_HISTORY_COMPLETE": "bash_complete",
        "COMP_WORDS": "langchain-supabase-history se",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([COMMAND], capture_output=True, text=True, env=asked, timeout=60, check=False)
    assert done.stdout.splitlines() == ["plain,sessions", "plain,search"]


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "langchain_supabase_history", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: langchain-supabase-history ")


def test_importing_the_command_changes_no_environment() -> None:
    code = (
        "import os; a = dict(os.environ); import langchain_supabase_history.commands.main; assert a == dict(os.environ)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_group_is_a_group() -> None:
    assert {name for name, command in main.commands.items() if isinstance(command, click.Group)} == {"export", "import"}
