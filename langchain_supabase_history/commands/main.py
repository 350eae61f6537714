"""The command `langchain-supabase-history`."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import NotConfigured
from . import options
from .options import TIME, Command, Group, Place, utc, with_database, with_store
from .output import print_json, print_table
from .sessions import COMMANDS
from .transfer import export, import_


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Durable conversations for LLM applications on Supabase.

    The database is named by the environment: SUPABASE_DB_URL (a connection string), or SUPABASE_URL and SUPABASE_KEY;
    by --db-url; or with --local it is the embedded PostgreSQL of HistoryStore.local().

    What is asked for goes to standard output, all else to standard error. Exit status: 0 done; 1 an error, or something
    was found wrong or missing; 2 a wrong option.
    """


@main.command(
    cls=Command,
    short_help="Install or update the tables and functions.",
    examples="""
    migrate
    migrate --check --db-url "$PRODUCTION_DB_URL"
    migrate --print > supabase/migrations/20260101000000_chat_history.sql""",
)
@options.schema
@click.option("--check", is_flag=True, help="Apply nothing; status 1 where migrations are missing.")
@click.option("--print", "only_print", is_flag=True, help="Print the SQL instead of applying it.")
@click.option("--db-url", envvar="SUPABASE_DB_URL", help="Connection string.  [env var: SUPABASE_DB_URL]")
@click.option(
    "--erase-with-auth-user", is_flag=True, help="Erase a user's conversations when auth.users loses the user."
)
@click.option(
    "--search",
    is_flag=False,
    flag_value="simple",
    metavar="[CONFIG]",
    help="Make an index for searches, in a language: simple (the default), english, portuguese, ...",
)
@click.option("--shares", is_flag=True, help="Let a public key without a user read what is shared.")
@click.option(
    "--conversations",
    is_flag=False,
    flag_value="conversations",
    metavar="[NAME]",
    help="Make a view for an application that reads and writes a table conversations.",
)
@options.as_json
def migrate(
    schema: str,
    check: bool,
    only_print: bool,
    db_url: str | None,
    erase_with_auth_user: bool,
    search: str | None,
    shares: bool,
    conversations: str | None,
    as_json: bool,
) -> None:
    """Install or update the tables and functions. Running it twice changes nothing.

    Printed, the SQL can be pasted into Supabase's SQL editor or a file in supabase/migrations/.
    """
    from ..migrations import migrate as apply, missing, script

    chosen: dict[str, Any] = {
        "schema": schema,
        "erase_with_auth_user": erase_with_auth_user,
        "search": search,
        "shares": shares,
        "conversations": conversations,
    }
    if only_print:
        click.echo(script(**chosen))
        return
    if not db_url:
        raise click.UsageError(
            "Migrating needs a connection string: set SUPABASE_DB_URL (Supabase: Connect > Connection string), "
            "or use --print and paste the SQL into the SQL editor."
        )
    if check:
        lacking = [migration.name for migration in missing(db_url, schema)]
        if as_json:
            print_json({"schema": schema, "missing": lacking})
        else:
            click.echo("".join(f"missing {name}\n" for name in lacking), nl=False)
            click.echo(f"Schema {schema} {'lacks migrations: run migrate.' if lacking else 'is up to date.'}")
        sys.exit(1 if lacking else 0)
    done = apply(db_url, **chosen)
    if as_json:
        print_json({"schema": schema, "applied": [migration.name for migration in done]})
    else:
        click.echo("".join(f"applied {migration.name}\n" for migration in done), nl=False)
        click.echo(f"Schema {schema} is up to date.")


@main.command(short_help="Show a conversation surviving a kill.")
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the embedded PostgreSQL; without it, a temporary one.",
)
def demo(path: Path | None) -> None:
    """Hold a conversation, kill the process in the middle of it, and resume it in a new one.

    Runs on an embedded PostgreSQL (extra [local]), without keys or accounts, with a scripted model. With OPENAI_API_KEY
    or ANTHROPIC_API_KEY set and langchain-openai or langchain-anthropic installed, that model speaks instead.
    """
    from .demo import run

    sys.exit(run(path))


@main.command(
    cls=Command,
    short_help="Check an installation.",
    examples="""
    doctor
    doctor --local --json""",
)
@click.option("--url", help="The project's URL.  [env var: SUPABASE_URL]")
@click.option("--key", help="The API key.  [env var: SUPABASE_KEY]")
@with_database
@click.option(
    "--deadline",
    type=click.FloatRange(0.1),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="Seconds the application gives one operation.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def doctor(place: Place, url: str | None, key: str | None, deadline: float, as_json: bool) -> None:
    """Examine an installation, and say what to do about each fault.

    Writes, reads and deletes one scratch session. Exits with 1 where there is a fault; warnings do not count.
    """
    from ..doctor.diagnose import diagnose
    from .findings import show

    if place.local is not None and (place.db_url or url or key):
        raise click.UsageError("--local takes the place of --db-url, --url and --key.")
    if place.local is None:
        findings = diagnose(db_url=place.db_url, url=url, key=key, schema=place.schema, deadline=deadline)
    else:
        with place.open(make=True, deadline=deadline) as store:
            findings = diagnose(store)
    show(findings, as_json=as_json)
    sys.exit(any(finding.status == "fault" for finding in findings))


@main.command(
    cls=Command,
    short_help="Turns, tokens and cost.",
    examples="""
    usage --by day --by model --since 2026-01-01
    usage --user ada --json""",
)
@with_store
@click.option("--session", "session_id", help="Only this session.")
@options.since
@options.until
@click.option(
    "--by",
    "group_by",
    multiple=True,
    type=click.Choice(["session", "user", "model", "day"]),
    help="Group by; may be given several times.",
)
@click.option("--with-langsmith", is_flag=True, help="First ask LangSmith for the costs that are not known yet.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def usage(
    place: Place,
    session_id: str | None,
    since: datetime | None,
    until: datetime | None,
    group_by: tuple[str, ...],
    with_langsmith: bool,
    as_json: bool,
) -> None:
    """Show how many turns and tokens were used, and what they cost as LangSmith computed it.

    Unknown is shown as "-" (null in JSON), never as 0. Unmeasured turns are those whose tokens are not known.
    """
    from .langsmith import show_usage

    show_usage(
        place.open(),
        {"session_id": session_id, "since": utc(since), "until": utc(until)},
        group_by,
        with_langsmith,
        as_json,
    )


@import_.command("langsmith", short_help="Restore a LangSmith project's conversations.")
@with_database
@click.option("--project", required=True, help="The LangSmith project's name.")
@click.option("--since", required=True, type=TIME, help="Runs from this day (or time) on, in UTC.")
@click.option("--dry-run", is_flag=True, help="Show what would be restored, and write nothing.")
def import_langsmith(place: Place, project: str, since: datetime, dry_run: bool) -> None:
    """Restore conversations from the root runs of a LangSmith project, with tokens, costs and feedback.

    May be run again at any time: it goes on where it was, and restores nothing twice. LangSmith is named by the
    environment: LANGSMITH_API_KEY, and LANGSMITH_ENDPOINT where it is not the US cloud.
    """
    from .langsmith import restore

    restore(place.open(make=True), project, since.replace(tzinfo=UTC), dry_run)


@export.command("traces")
@click.option("--project", required=True, help="The LangSmith project's name.")
@click.option("--since", type=TIME, default="1970-01-01", help="Runs from this day (or time) on, in UTC; default: all.")
@click.option("--until", type=TIME, help="Up to this day (or time), in UTC.")
@click.option("--format", "format", type=click.Choice(["csv", "json", "jsonl"]), default="csv", show_default=True)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default="-",
    metavar="FILE",
    help="File; default: standard output.",
)
def export_traces(project: str, since: datetime, until: datetime | None, format: str, output: Path) -> None:
    """Write the root runs of a LangSmith project as a table: session, user, times, tokens, cost, feedback.

    A file that is there is replaced when all runs are written; where LangSmith fails before, it stays as it is.
    """
    from ..langsmith.client import LangSmith
    from ..langsmith.export import replacing, rows, write

    with closing(LangSmith()) as smith:
        found = rows(smith, project, since.replace(tzinfo=UTC), utc(until))
        if output == Path("-"):
            with click.open_file("-", "w", encoding="utf-8") as out:
                count = write(found, format, out)
        else:
            try:
                with replacing(output) as out:
                    count = write(found, format, out)
            except OSError as error:
                raise click.FileError(str(output), error.strerror) from error
    click.echo(f"{count} runs", err=True)


@main.command(short_help="Remove old messages for good.")
@with_store
@click.option("--idle", callback=options.days, metavar="DAYS", help="Delete sessions without a write for so many days.")
@click.option(
    "--keep",
    "keep_messages",
    type=click.IntRange(1),
    metavar="N",
    help="Remove all but the newest N messages of each session, in whole turns.",
)
@click.option("--yes", is_flag=True, help="Remove it; without this, only count.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def prune(place: Place, idle: timedelta | None, keep_messages: int | None, yes: bool, as_json: bool) -> None:
    """Remove for good what need not be kept: what was cleared, idle sessions, and messages beyond the newest.

    Sessions that are in use are passed over. Of deleted ones a row without content stays.
    """
    from .retention import run_prune

    run_prune(place.open(), idle, keep_messages, yes, as_json)


@main.command(short_help="Show what waits in an outbox file.")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--flush", is_flag=True, help="First send what waits to the database.")
@with_database
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def outbox(place: Place, path: Path, flush: bool, as_json: bool) -> None:
    """Show what waits in an outbox, a file that no process is using.

    Appends that the database refused for good are shown with the reason. Exit status 1 while something is in it.
    """
    from ..outbox.file import look_into

    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise NotConfigured(f"{path} is no outbox.")
    if flush:
        with place.open(outbox=path) as store:
            click.echo(f"sent {store.flush()}", err=True)
    found = look_into(path)
    if as_json:
        print_json(found)
    else:
        rows = [
            (entry.session_id, entry.user_id, entry.messages, entry.kept_at, entry.refused or "") for entry in found
        ]
        print_table(("session", "user", "messages", "since", "refused"), rows, numbers=("messages",))
    sys.exit(1 if found else 0)


for _command in (*COMMANDS, export, import_):
    main.add_command(_command)
