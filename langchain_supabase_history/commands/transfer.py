"""Commands that take conversations out and in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..transfer.formats import FORMATS, format_of
from . import options
from .options import Command, Group, Place, with_database, with_store
from .output import print_json, progress

if TYPE_CHECKING:
    from ..transfer.formats import Format
    from ..transfer.importing import Imported

_format = click.option(
    "--format", "format", type=click.Choice(list(FORMATS)), help="By default, as the file's name ends; else jsonl."
)


@click.group(cls=Group, short_help="Take conversations out.")
def export() -> None:
    """Take conversations, or a LangSmith project's runs, out."""


@export.command(
    "conversations",
    cls=Command,
    short_help="Write conversations to a file.",
    examples="""
    export conversations all.jsonl.gz --all-users --all
    export conversations messages.csv --user ada --since 2026-01-01
    export conversations trip.md --session trip --user ada
    export conversations - --format openai --feedback helpful > train.jsonl""",
)
@click.argument("target", metavar="FILE")
@with_store
@options.filters
@options.all_users
@click.option(
    "--session", "session_ids", multiple=True, metavar="SESSION", help="This one; may be given several times."
)
@_format
@click.option(
    "--rows",
    type=click.Choice(["messages", "conversations"]),
    help="Of csv and parquet: a row each; by default messages.",
)
@click.option("--feedback", "feedback_key", metavar="KEY", help="Of the openai formats: whose scores count.")
@options.as_json
def export_conversations(
    place: Place,
    target: str,
    which: dict[str, Any],
    all_users: bool,
    session_ids: tuple[str, ...],
    format: Format | None,
    rows: str | None,
    feedback_key: str | None,
    as_json: bool,
) -> None:
    """Write conversations to FILE; "-" is standard output. A file appears under its name when it is whole."""
    chosen = _chosen(which, all_users, session_ids)
    given = {"rows": rows, "feedback_key": feedback_key}
    chosen |= {name: value for name, value in given.items() if value is not None}
    with place.open() as store, progress("messages") as count:
        done = store.export_sessions(
            target,
            format=format or format_of(target),
            progress=lambda so_far: count(so_far.messages),
            **chosen,
        )
    if as_json and target != "-":
        print_json(done)
    else:
        click.echo(f"{done.sessions:,} conversations with {done.messages:,} messages", err=True)


def _chosen(which: dict[str, Any], all_users: bool, session_ids: tuple[str, ...]) -> dict[str, Any]:
    """Which sessions to export. The names of some and filters are both passed on, and refused, where both are given."""
    chosen = {**which, "all_users": all_users}
    if not session_ids:
        return chosen
    return {**{name: value for name, value in chosen.items() if value}, "session_ids": session_ids}


@export.command(
    "user",
    cls=Command,
    short_help="Write all that is stored of a person.",
    examples="export user ada ada.jsonl",
)
@click.argument("user_id", metavar="USER")
@click.argument("target", metavar="FILE")
@with_database
@_format
@options.as_json
def export_user(place: Place, user_id: str, target: str, format: Format | None, as_json: bool) -> None:
    """Write all that is stored of a person to FILE, for a request of access."""
    with place.open() as store, progress("messages") as count:
        done = store.export_user(
            user_id,
            target,
            format=format or format_of(target),
            progress=lambda so_far: count(so_far.messages),
        )
    if as_json and target != "-":
        print_json(done)
    else:
        click.echo(f"{done.sessions:,} conversations with {done.messages:,} messages", err=True)


@export.command(
    "sheets",
    cls=Command,
    short_help="Write conversations to a Google spreadsheet.",
    examples="""
    export sheets "https://docs.google.com/spreadsheets/d/..." --all-users
    export sheets Conversations --create --share-with ada@example.com
    export sheets Conversations --worksheet conversations --worksheet usage""",
)
@click.argument("spreadsheet")
@with_store
@options.filters
@options.all_users
@click.option("--session", "session_ids", multiple=True, metavar="SESSION", help="This one; again for more.")
@click.option(
    "--worksheet",
    "worksheets",
    multiple=True,
    type=click.Choice(["conversations", "messages", "usage", "feedback"]),
    help="Only this one; again for more.",
)
@click.option("--credentials", metavar="FILE", help="A service account's key; else what GOOGLE_SHEETS_CREDENTIALS has.")
@click.option("--create", is_flag=True, help="Make a spreadsheet of this name where there is none.")
@click.option("--share-with", multiple=True, metavar="EMAIL", help="Who may then edit it; again for more.")
@options.as_json
def export_sheets(
    place: Place,
    spreadsheet: str,
    which: dict[str, Any],
    all_users: bool,
    session_ids: tuple[str, ...],
    worksheets: tuple[Any, ...],
    credentials: str | None,
    create: bool,
    share_with: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write conversations to SPREADSHEET, an id, an address or a name, or bring up to date what was written before."""
    chosen = _chosen(which, all_users, session_ids)
    given = {"worksheets": worksheets, "share_with": share_with, "credentials": credentials}
    chosen |= {name: value for name, value in given.items() if value}
    with place.open() as store, progress("messages") as count:
        done = store.export_sheets(spreadsheet, create=create, progress=lambda so_far: count(so_far.messages), **chosen)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{done.added:,} rows added, {done.updated:,} updated: {done.url}")
        if done.cut:
            click.echo(f"{done.cut:,} cells were too long for Google, and cut", err=True)


class _FileOrCommand(Group):
    """`import FILE` beside `import langsmith`: what is no command's name is a file."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is named, else the one for files."""
        if args and args[0] not in self.commands:
            return "file", self.commands["file"], args
        return super().resolve_command(ctx, args)


@click.group(
    "import", cls=_FileOrCommand, short_help="Bring conversations in.", subcommand_metavar="FILE | COMMAND [ARGS]..."
)
def import_() -> None:
    """Bring conversations in, from a file or a folder, a table, or LangSmith.

    What is no command's name is a file: `import conversations.json` is `import file conversations.json`.
    """


@import_.command(
    "file",
    cls=Command,
    short_help="From a file or a folder of files.",
    examples="""
    import all.jsonl.gz
    import conversations.json --user ada --dry-run
    import data/conversations/""",
)
@click.argument("source", metavar="FILE")
@with_store
@click.option("--format", "format", metavar="FORMAT", help="What wrote it; by default it is recognised.")
@options.dry_run
@options.as_json
def import_file(place: Place, source: str, format: str | None, dry_run: bool, as_json: bool) -> None:
    """Store the conversations of FILE, a folder, or standard input ("-").

    It may be this library's own export, lists of messages, or an export of ChatGPT or Claude. Run again, it stores
    nothing twice. Status 1 where something could not be read.
    """
    with place.open(make=True) as store, progress("messages") as count:
        done = store.import_sessions(
            source, format=format, dry_run=dry_run, progress=lambda so_far: count(so_far.messages + so_far.known)
        )
    _report(done, dry_run, as_json)


@import_.command(
    "table",
    cls=Command,
    short_help="From another library's table.",
    examples="""
    import table message_store --from postgresql://user:password@host:5432/postgres
    import table checkpoints --format langgraph --from "$OLD_DB_URL" """,
)
@click.argument("table")
@click.option("--from", "source", metavar="URL", envvar="SOURCE_DB_URL", show_envvar=True, help="The table's database.")
@with_store
@click.option(
    "--format",
    "format",
    type=click.Choice(["messages-table", "openai-agents", "langgraph", "conversations-table"]),
    help="Whose table; by default it is recognised by its columns.",
)
@options.dry_run
@options.as_json
def import_table(
    place: Place, table: str, source: str | None, format: str | None, dry_run: bool, as_json: bool
) -> None:
    """Store the conversations of a table, which is only read. Without --from it is in the same database."""
    import os

    address = source or place.db_url or os.environ.get("SUPABASE_DB_URL")
    if not address:
        raise click.UsageError("Name the database that the table is in: --from.")
    with place.open(make=True) as store, progress("messages") as count:
        done = store.import_table(
            address,
            table,
            format=format,
            dry_run=dry_run,
            progress=lambda so_far: count(so_far.messages + so_far.known),
        )
    _report(done, dry_run, as_json)


def _report(done: Imported, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        verb = "Would store" if dry_run else "Stored"
        click.echo(f"{verb} {done.messages:,} messages in {done.sessions:,} new conversations; {done.known:,} known.")
        for problem in done.problems:
            click.echo(f"Not read: {problem}", err=True)
        if (more := done.unreadable - len(done.problems)) > 0:
            click.echo(f"... and {more:,} more", err=True)
    if done.unreadable:
        raise SystemExit(1)
