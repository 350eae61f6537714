"""Write `docs/commands.md`: what all commands have in common, and the help of each: `python -m scripts.commands`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from langchain_supabase_history.commands.main import main

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
NAME: Final = "langchain-supabase-history"
_HEAD: Final = """# Commands

`langchain-supabase-history`, or `python -m langchain_supabase_history`. This page is written by
`python -m scripts.commands` from the commands' own help.

- **Which database**: `SUPABASE_DB_URL`, or `SUPABASE_URL` and `SUPABASE_KEY`; `--db-url` names another;
  `--local [FOLDER]` is the embedded PostgreSQL of `HistoryStore.local()`, which must exist. `--schema` says where the
  tables are, `--user` whose conversations are meant: without it, those of the application itself.
- **What is printed**: what was asked for on standard output, all else (progress, questions, counts of an export) on
  standard error. On a terminal lists are tables; in a pipe each row is a line with tabs between the cells, the columns'
  names first, and nothing is cut or folded. `--json` gives JSON.
- **Exit status**: 0 done; 1 an error, in one line on standard error, or something that was found wrong, missing or
  unreadable; 2 a wrong option, or a question that nobody can be asked (`--yes` answers it).
- **Completion** of commands and options in the shell, once for each session or from its start-up file:

```text
eval "$(_LANGCHAIN_SUPABASE_HISTORY_COMPLETE=bash_source langchain-supabase-history)"
eval "$(_LANGCHAIN_SUPABASE_HISTORY_COMPLETE=zsh_source langchain-supabase-history)"
_LANGCHAIN_SUPABASE_HISTORY_COMPLETE=fish_source langchain-supabase-history | source
```

What the commands about LangSmith do is on [LangSmith](langsmith.md); what is exported and imported, on
[Export](export.md) and [Import](import.md).
"""


def leaves(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands that are no groups, with their names."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name, child in command.commands.items():
        yield from leaves(child, (*words, name))


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for words, command in leaves(main):
        context = click.Context(main, info_name=NAME, terminal_width=100, **main.context_settings)
        for name in words:
            context = click.Context(command, info_name=name, parent=context, terminal_width=100)
        name = " ".join((NAME, *words))
        parts.append(f"\n## `{name}`\n\n```text\n{command.get_help(context)}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
