"""What the commands about usage and restoring print."""

from __future__ import annotations

import sys
from datetime import datetime

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..langsmith.client import CostFiller
from ..langsmith.restore import Restore
from ..operations.usage import UsageFilter, set_costs, uncosted_turns
from ..records import Usage
from ..store import HistoryStore
from .output import print_json, print_table

_COUNTS = ("turns", "failed_turns", "unmeasured_turns", "input_tokens", "output_tokens", "total_tokens", "total_cost")
_SHOWN_BY = {"session": ("user_id", "session_id"), "user": ("user_id",), "model": ("model",), "day": ("day",)}


def show_usage(
    store: HistoryStore, which: UsageFilter, group_by: tuple[str, ...], with_langsmith: bool, as_json: bool
) -> None:
    """Print usage as a table, or as JSON."""
    with store:
        if with_langsmith:
            filled = CostFiller(
                store.langsmith,
                lambda after: store.run(uncosted_turns(store.scope, after, **which)),
                lambda costs: store.run(set_costs(store.scope, costs)),
            ).run()
            click.echo(f"LangSmith gave the cost of {filled} turns.", err=True)
        found = store.usage(**which, group_by=group_by)
    if as_json:
        print_json(found)
        return
    names = dict.fromkeys(name for group in group_by for name in _SHOWN_BY[group])
    columns = [*names, *(name.replace("_", " ") for name in _COUNTS)]
    rows = [[_cell(usage, name) for name in (*names, *_COUNTS)] for usage in found]
    print_table(columns, rows, numbers=columns[len(names) :])


def _cell(usage: Usage, name: str) -> object:
    value = getattr(usage, name)
    return f"{value:.4f}" if name == "total_cost" and value is not None else value


def restore(store: HistoryStore, project: str, since: datetime, dry_run: bool) -> None:
    """Restore a LangSmith project, with a progress bar where somebody looks at it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with store, Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"restoring {project}", total=None)
        report = Restore(
            store, project, since, dry_run, lambda done, of: bar.update(task, completed=done, total=of)
        ).run()
    verb = "Would restore" if dry_run else "Restored"
    click.echo(
        f"{verb} {report.turns} turns with {report.messages} messages in {report.sessions} sessions, "
        f"and {report.feedback} feedbacks, from {report.runs} root runs."
    )
    for count, what in (
        (report.known, f"turns were stored already; {report.costs} of them got a cost"),
        (report.without_session, "runs name no session in their metadata (session_id, conversation_id, thread_id)"),
        (report.without_messages, "runs hold no question and answer that can be recognised"),
        (report.refused, "turns are of sessions that were cleared or deleted, and stay so"),
        (report.running, "runs are still running; restore again when they have ended"),
    ):
        if count:
            click.echo(f"{count} {what}.")
    for run_id in report.unread:
        click.echo(f"Not read: run {run_id}", err=True)
