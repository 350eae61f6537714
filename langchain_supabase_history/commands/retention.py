"""What `langchain-supabase-history prune` prints."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import timedelta

import click

from ..records import Pruned
from ..store import HistoryStore


def run_prune(
    store: HistoryStore,
    idle: timedelta | None,
    keep_messages: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    """`langchain-supabase-history prune`: count, or with `yes` remove, telling of each batch on a terminal."""
    on_terminal = sys.stderr.isatty() and not as_json

    def show(total: Pruned) -> None:
        click.echo(f"\r{_in_words(total)} ...", err=True, nl=False)

    with store:
        total = store.prune(
            idle=idle, keep_messages=keep_messages, dry_run=not yes, progress=show if on_terminal else None
        )
    if on_terminal:
        click.echo(err=True)
    if as_json:
        click.echo(json.dumps(asdict(total)))
    elif not any((total.sessions, total.trimmed, total.messages, total.turns, total.feedback)):
        click.echo("Nothing to remove.")
    elif yes:
        click.echo(f"Removed {_in_words(total)}.")
    else:
        click.echo(f"Would remove {_in_words(total)}. Nothing was changed: run it again with --yes.")


def _in_words(total: Pruned) -> str:
    def some(count: int, noun: str) -> str:
        return f"{count:,} {noun}" + ("" if count == 1 else "s")

    return ", ".join(
        [
            some(total.sessions, "session"),
            f"{some(total.messages, 'message')} ({some(total.trimmed, 'session')} trimmed)",
            some(total.turns, "turn"),
            f"{total.feedback:,} of feedback",
        ]
    )
