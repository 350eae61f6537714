"""The command `langchain-supabase-history`."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import click

from . import __version__
from .errors import HistoryError


class _Group(click.Group):
    """Shows our errors as one sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except HistoryError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Durable conversations for LLM applications on Supabase.

    The database is named by the environment: SUPABASE_DB_URL (a connection string), or SUPABASE_URL and SUPABASE_KEY.
    """


@main.command()
@click.option("--schema", default="public", show_default=True, help="The schema to install into.")
@click.option("--print", "only_print", is_flag=True, help="Print the SQL instead of applying it.")
@click.option("--db-url", envvar="SUPABASE_DB_URL", help="Connection string.  [env var: SUPABASE_DB_URL]")
def migrate(schema: str, only_print: bool, db_url: str | None) -> None:
    """Install or update the tables and functions. Running it twice changes nothing.

    Printed, the SQL can be pasted into Supabase's SQL editor or a file in supabase/migrations/.
    """
    from .migrations import migrate as apply, script

    if only_print:
        click.echo(script(schema))
        return
    if not db_url:
        raise click.UsageError(
            "Migrating needs a connection string: set SUPABASE_DB_URL (Supabase: Connect > Connection string), "
            "or use --print and paste the SQL into the SQL editor."
        )
    done = apply(db_url, schema=schema)
    for migration in done:
        click.echo(f"applied {migration.name}")
    click.echo(f"Schema {schema} is up to date.")


@main.command()
@click.option("--path", type=click.Path(path_type=Path), help="Folder of the embedded PostgreSQL.")
def demo(path: Path | None) -> None:
    """Hold a conversation, kill the process in the middle of it, and resume it in a new one.

    Runs on an embedded PostgreSQL (extra [local]), without keys or accounts, with a scripted model. With OPENAI_API_KEY
    or ANTHROPIC_API_KEY set and langchain-openai or langchain-anthropic installed, that model speaks instead.
    """
    from .demo import run

    sys.exit(run(path))


@main.command()
@click.option("--db-url", help="Connection string.  [env var: SUPABASE_DB_URL]")
@click.option("--url", help="The project's URL.  [env var: SUPABASE_URL]")
@click.option("--key", help="The API key.  [env var: SUPABASE_KEY]")
@click.option("--schema", default="public", show_default=True, help="The schema that the tables are in.")
@click.option("--deadline", type=click.FloatRange(0.1), default=10, show_default=True, metavar="SECONDS",
              help="What the application gives one operation.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def doctor(
    db_url: str | None, url: str | None, key: str | None, schema: str, deadline: float, as_json: bool
) -> None:  # fmt: skip
    """Tell what is right and wrong with an installation, and the command that mends each fault.

    Writes, reads and deletes one scratch session. Exits with 1 where there is a fault; warnings do not count.
    """
    from .doctor import diagnose, show

    findings = diagnose(db_url=db_url, url=url, key=key, schema=schema, deadline=deadline)
    show(findings, as_json=as_json)
    sys.exit(any(finding.status == "fault" for finding in findings))


_SINCE = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC)


@main.command()
@click.option("--session", "session_id", help="Of one session.")
@click.option("--user", "user_id", help="Of one user's sessions.")
@click.option("--since", type=_SINCE, help="From this day (or time) on, in UTC.")
@click.option("--until", type=_SINCE, help="Up to, but without, this day (or time), in UTC.")
@click.option("--by", "group_by", multiple=True, type=click.Choice(["session", "user", "model", "day"]),
              help="Group by; may be given several times.")  # fmt: skip
@click.option("--with-langsmith", is_flag=True, help="First ask LangSmith for the costs that are not known yet.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def usage(
    session_id: str | None, user_id: str | None, since: datetime | None, until: datetime | None,
    group_by: tuple[str, ...], with_langsmith: bool, as_json: bool,
) -> None:  # fmt: skip
    """Tell how many turns and tokens were used, and what LangSmith reckons they cost.

    Unknown is shown as "-" (null in JSON), never as 0.
    """
    from .langsmith_cli import show_usage

    show_usage({"session_id": session_id, "user_id": user_id, "since": _utc(since), "until": _utc(until)},
               group_by, with_langsmith, as_json)  # fmt: skip


@main.group("import", cls=_Group)
def import_() -> None:
    """Bring conversations in from elsewhere."""


@import_.command("langsmith")
@click.option("--project", required=True, help="The LangSmith project's name.")
@click.option("--since", required=True, type=_SINCE, help="Runs from this day (or time) on, in UTC.")
@click.option("--dry-run", is_flag=True, help="Tell what would be restored, and write nothing.")
def import_langsmith(project: str, since: datetime, dry_run: bool) -> None:
    """Restore conversations from the root runs of a LangSmith project, with tokens, costs and feedback.

    May be run again at any time: it goes on where it was, and restores nothing twice. LangSmith is named by the
    environment: LANGSMITH_API_KEY, and LANGSMITH_ENDPOINT where it is not the US cloud.
    """
    from .langsmith_cli import restore

    restore(project, since.replace(tzinfo=UTC), dry_run)


@main.group(cls=_Group)
def export() -> None:
    """Write out what is stored."""


@export.command("traces")
@click.option("--project", required=True, help="The LangSmith project's name.")
@click.option(
    "--since", type=_SINCE, default="1970-01-01", help="Runs from this day (or time) on, in UTC; default: all."
)
@click.option("--until", type=_SINCE, help="Up to this day (or time), in UTC.")
@click.option("--format", "format", type=click.Choice(["csv", "json", "jsonl"]), default="csv", show_default=True)
@click.option(
    "--output", type=click.File("w", encoding="utf-8", atomic=True), default="-", help="File; default: standard output."
)
def export_traces(project: str, since: datetime, until: datetime | None, format: str, output: IO[str]) -> None:
    """Write the root runs of a LangSmith project as a table: session, user, times, tokens, cost, feedback."""
    from .langsmith import LangSmith
    from .langsmith_export import rows, write

    count = write(rows(LangSmith(), project, since.replace(tzinfo=UTC), _utc(until)), format, output)
    click.echo(f"{count} runs", err=True)


@main.command()
@click.option("--idle", type=click.FloatRange(0, min_open=True), metavar="DAYS",
              help="Delete sessions without a write for so many days.")  # fmt: skip
@click.option("--keep", "keep_messages", type=click.IntRange(1), metavar="N",
              help="Remove all but the newest N messages of each session, in whole turns.")  # fmt: skip
@click.option("--user", "user_id", help="Of one user's sessions.")
@click.option("--yes", is_flag=True, help="Remove it; without this, only count.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune(idle: float | None, keep_messages: int | None, user_id: str | None, yes: bool, as_json: bool) -> None:
    """Remove for good what need not be kept: what was cleared, idle sessions, and messages beyond the newest.

    Sessions that are in use are passed over. Deleted ones leave a tombstone without content.
    """
    from .retention import run_prune

    run_prune(idle, keep_messages, user_id, yes, as_json)


@main.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--flush", is_flag=True, help="Send what waits to the database that the environment names.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def outbox(path: Path, flush: bool, as_json: bool) -> None:
    """Show what waits in an outbox, a file that no process is using.

    Appends that the database refused for good are shown with the reason. Exit status 1 while something is in it.
    """
    import json
    from dataclasses import asdict

    from .outbox import look_into
    from .store import HistoryStore

    if flush:
        with HistoryStore.from_env(outbox=path) as store:
            click.echo(f"sent {store.flush()}", err=True)
    found = look_into(path)
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in found], default=str))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("session", "user", "messages", "since", "refused", title=f"{len(found)} in the outbox")
        for entry in found:
            since = entry.kept_at.isoformat(timespec="seconds")
            table.add_row(entry.session_id, entry.user_id or "", str(entry.messages), since, entry.refused or "")
        Console().print(table)
    sys.exit(1 if found else 0)


if os.environ.get("COLUMNS") is None and not sys.stdout.isatty():
    os.environ["COLUMNS"] = "120"  # output that is piped is not folded
