"""Hooks of mkdocs, for the site of the documentation.

- CONTRIBUTING.md and CHANGELOG.md, which stand at the top of the repository, are pages too.
- Each page has a plain Markdown twin beside it (`windows.md` beside `windows.html`), and `llms.txt` lists them all.
- A public name that is not documented is a warning, and `mkdocs build --strict` fails on warnings.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Final

from markdownify import ATX, markdownify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

from scripts.reference import missing

ROOT: Final = Path(__file__).resolve().parents[1]
_TOP: Final = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_logger: Final = logging.getLogger("mkdocs.plugins.site")  # below mkdocs: its warnings count as mkdocs' own
_markdown: Final[dict[str, str]] = {}
_navigation: Final[list[Navigation]] = []


def on_pre_build(config: MkDocsConfig) -> None:
    """Warn of every public name that is not documented."""
    for text in missing():
        _logger.warning("Reference: %s", text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand at the top of the repository, with their links as they are from `docs/`."""
    for name, source in _TOP.items():
        text = (ROOT / source).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Keep the navigation, which is the order of `llms.txt`."""
    _navigation[:] = [nav]
    return nav


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to the files at the top lead to their pages, and keep the page's Markdown."""
    for name, source in _TOP.items():
        markdown = re.sub(rf"\]\(\.\./((?:\.\./)*){source}", rf"](\1{name}", markdown)
    _markdown[page.file.src_uri] = markdown
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make Markdown of pages whose text comes from docstrings."""
    if re.search(r"^::: ", _markdown[page.file.src_uri], re.MULTILINE):
        plain = re.sub(r'<a[^>]*class="headerlink".*?</a>', "", html)
        plain = re.sub(r'href="([^":]+)\.html', r'href="\1.md', plain)
        text = markdownify(plain, heading_style=ATX, bullets="-", escape_underscores=False, code_language="python")
        _markdown[page.file.src_uri] = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return html


def on_post_build(config: MkDocsConfig) -> None:
    """Write the Markdown twins and `llms.txt`."""
    site = Path(config.site_dir)
    for name, text in _markdown.items():
        (site / name).write_text(text, "utf-8")
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    for item in _navigation[0].items:
        lines += [f"## {item.title}", "", *_links(item), ""]
    (site / "llms.txt").write_text("\n".join(lines), "utf-8")


def _links(item: Any) -> list[str]:
    if isinstance(item, Section):
        return [line for child in item.children for line in _links(child)]
    return [f"- [{item.title}]({item.file.src_uri})"] if isinstance(item, Page) else []
