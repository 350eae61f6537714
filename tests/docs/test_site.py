"""The site of the documentation: complete, without anything from elsewhere, and in plain Markdown too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scripts.reference import missing
from tests import servers
from tests.conftest import REQUIRE_ALL

CONFIG = servers.ROOT / "mkdocs.yml"
PAGES = sorted(path.relative_to(servers.ROOT / "docs") for path in (servers.ROOT / "docs").rglob("*.md"))
needs_mkdocs = pytest.mark.skipif(find_spec("mkdocs") is None and not REQUIRE_ALL, reason="`make docs` installs mkdocs")


def build(root: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    target = tmp_path_factory.mktemp("site")
    done = build(servers.ROOT, target)
    assert done.returncode == 0, done.stderr
    return target


def test_every_public_name_is_documented_and_in_the_reference() -> None:
    assert missing() == []


def test_what_is_not_documented_is_found() -> None:
    class Undocumented:
        def operation(self, session_id: str) -> int:
            """Do something."""
            return len(session_id)

        async def aoperation(self, session_id: str) -> int:
            """Async version of `operation`."""
            return self.operation(session_id)

        def bare(self) -> None: ...

    module: Any = ModuleType("langchain_supabase_history")
    module.__all__ = ["Undocumented"]
    module.Undocumented = Undocumented
    Undocumented.__module__ = "langchain_supabase_history.of_a_test"
    assert missing(module) == [
        "Undocumented is on no page of the reference",
        "Undocumented: has no docstring",
        "Undocumented.aoperation is on no page of the reference",
        "Undocumented.bare: has no docstring",
        "Undocumented.bare is on no page of the reference",
        "Undocumented.operation: does not document session_id",
        "Undocumented.operation: does not say what it returns",
        "Undocumented.operation: does not say what it raises",
        "Undocumented.operation is on no page of the reference",
    ]


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"([\w/.-]+\.md)$", CONFIG.read_text(), re.MULTILINE))
    assert {page.as_posix() for page in PAGES} - named == set(), "add the page to `nav` in mkdocs.yml"


@needs_mkdocs
def test_nothing_comes_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = re.sub(r"<pre.*?</pre>", "", page.read_text(), flags=re.DOTALL)
        loaded = re.findall(r"""<(?:script|img|iframe)[^>]*\bsrc=["']?(?:https?:)?//[^"'> ]+""", text)
        loaded += re.findall(r"""<link[^>]*\bhref=["']?(?:https?:)?//[^"'> ]+""", text)
        assert loaded == [], page.name
        assert 'class="mermaid"' not in text, "mermaid is loaded from elsewhere: commit a picture"


@needs_mkdocs
def test_every_page_has_a_markdown_twin_and_llms_txt_lists_them(site: Path) -> None:
    pages = {page.relative_to(site).with_suffix(".md").as_posix() for page in site.rglob("*.html")} - {"404.md"}
    listed = re.findall(r"^- \[[^]]+\]\(([^)]+)\)$", (site / "llms.txt").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(pages)
    for name in listed:
        assert len((site / name).read_text()) > 100, name
    for page in PAGES:
        assert not re.search(r"^::: ", (site / page).read_text(), re.MULTILINE), f"{page} is not rendered"
    assert (site / "windows.md").read_text() == (servers.ROOT / "docs" / "windows.md").read_text()


@needs_mkdocs
def test_links_of_the_markdown_twins_lead_to_files(site: Path) -> None:
    for page in site.rglob("*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@needs_mkdocs
def test_async_versions_link_to_their_method(site: Path) -> None:
    text = (site / "reference" / "store.html").read_text()
    assert re.search(r'Async version of <a[^>]*href="#langchain_supabase_history\.HistoryStore\.append"', text)


@needs_mkdocs
def test_a_broken_link_fails(tmp_path: Path) -> None:
    for name in ("scripts", "langchain_supabase_history"):
        shutil.copytree(servers.ROOT / name, tmp_path / name)
    shutil.copytree(servers.ROOT / "docs" / "reference", tmp_path / "docs" / "reference")
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        (tmp_path / name).write_text("# Nothing\n")
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[Nowhere](nowhere.md), [no section](#nowhere)\n")
    pages = "nav: [index.md, contributing.md, changelog.md]\nexclude_docs: reference/\n"
    (tmp_path / "mkdocs.yml").write_text(CONFIG.read_text().partition("\nnav:")[0] + "\n" + pages)
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "'nowhere.md'" in done.stderr
    assert "'#nowhere'" in done.stderr
