"""The command `langchain-supabase-history`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..errors import HistoryError, NotConfigured

if TYPE_CHECKING:
    from ..store import HistoryStore


class _Group(click.Group):
    """Shows our errors as one sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except HistoryError as error:
            raise click.ClickException(str(error)) from error


# --- which store a command works on

_schema = click.option("--schema", default="public", show_default=True, help="The schema of the tables.")


@dataclass(frozen=True)
class _Place:
    """What the options say of the store."""

    schema: str
    local: str | None

    def open(self, **options: Any) -> HistoryStore:
        from ..store import HistoryStore

        if self.local is None:
            return HistoryStore.from_env(schema=self.schema, **options)
        return HistoryStore.local(self.local or None, schema=self.schema, **options)


def _with_store(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which store it works on, and a `_Place` to open it by."""

    @_schema
    @click.option(
        "--local",
        is_flag=False,
        flag_value="",
        metavar="[FOLDER]",
        help="The embedded PostgreSQL in FOLDER, or the default one.",
    )
    @functools.wraps(command)
    def wrapped(*, schema: str, local: str | None, **options: Any) -> None:
        command(_Place(schema, local), **options)

    return wrapped


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Durable conversations for LLM applications on Supabase.

    The database is named by the environment: SUPABASE_DB_URL (a connection string), or SUPABASE_URL and SUPABASE_KEY;
    with --local it is the embedded PostgreSQL of HistoryStore.local().
    """


@main.command(short_help="Install or update the tables and functions.")
@_schema
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
def migrate(
    schema: str,
    only_print: bool,
    db_url: str | None,
    erase_with_auth_user: bool,
    search: str | None,
    shares: bool,
) -> None:
    """Install or update the tables and functions. Running it twice changes nothing.

    Printed, the SQL can be pasted into Supabase's SQL editor or a file in supabase/migrations/.
    """
    from ..migrations import migrate as apply, script

    if only_print:
        click.echo(script(schema, erase_with_auth_user=erase_with_auth_user, search=search, shares=shares))
        return
    if not db_url:
        raise click.UsageError(
            "Migrating needs a connection string: set SUPABASE_DB_URL (Supabase: Connect > Connection string), "
            "or use --print and paste the SQL into the SQL editor."
        )
    done = apply(db_url, schema=schema, erase_with_auth_user=erase_with_auth_user, search=search, shares=shares)
    for migration in done:
        click.echo(f"applied {migration.name}")
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


@main.command(short_help="Check an installation.")
@click.option("--db-url", help="Connection string.  [env var: SUPABASE_DB_URL]")
@click.option("--url", help="The project's URL.  [env var: SUPABASE_URL]")
@click.option("--key", help="The API key.  [env var: SUPABASE_KEY]")
@_with_store
@click.option(
    "--deadline",
    type=click.FloatRange(0.1),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="Seconds the application gives one operation.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def doctor(place: _Place, db_url: str | None, url: str | None, key: str | None, deadline: float, as_json: bool) -> None:
    """Tell what is right and wrong with an installation, and the command that mends each fault.

    Writes, reads and deletes one scratch session. Exits with 1 where there is a fault; warnings do not count.
    """
    from ..doctor.diagnose import diagnose, show

    if place.local is not None and (db_url or url or key):
        raise click.UsageError("--local takes the place of --db-url, --url and --key.")
    if place.local is None:
        findings = diagnose(db_url=db_url, url=url, key=key, schema=place.schema, deadline=deadline)
    else:
        with place.open(deadline=deadline) as store:
            findings = diagnose(store)
    show(findings, as_json=as_json)
    sys.exit(any(finding.status == "fault" for finding in findings))


_SINCE = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC)


_user = click.option("--user", "user_id", help="Only this user's sessions.")


@main.command(short_help="Turns, tokens and cost.")
@_with_store
@click.option("--session", "session_id", help="Only this session.")
@_user
@click.option("--since", type=_SINCE, help="From this day (or time) on, in UTC.")
@click.option("--until", type=_SINCE, help="Up to, but without, this day (or time), in UTC.")
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
    place: _Place,
    session_id: str | None,
    user_id: str | None,
    since: datetime | None,
    until: datetime | None,
    group_by: tuple[str, ...],
    with_langsmith: bool,
    as_json: bool,
) -> None:
    """Tell how many turns and tokens were used, and what LangSmith reckons they cost.

    Unknown is shown as "-" (null in JSON), never as 0. Unmeasured turns are those whose tokens nobody told.
    """
    from .langsmith import show_usage

    show_usage(
        place.open(),
        {"session_id": session_id, "user_id": user_id, "since": _utc(since), "until": _utc(until)},
        group_by,
        with_langsmith,
        as_json,
    )


@main.group("import", cls=_Group)
def import_() -> None:
    """Bring conversations in from elsewhere."""


@import_.command("langsmith", short_help="Restore a LangSmith project's conversations.")
@_with_store
@click.option("--project", required=True, help="The LangSmith project's name.")
@click.option("--since", required=True, type=_SINCE, help="Runs from this day (or time) on, in UTC.")
@click.option("--dry-run", is_flag=True, help="Tell what would be restored, and write nothing.")
def import_langsmith(place: _Place, project: str, since: datetime, dry_run: bool) -> None:
    """Restore conversations from the root runs of a LangSmith project, with tokens, costs and feedback.

    May be run again at any time: it goes on where it was, and restores nothing twice. LangSmith is named by the
    environment: LANGSMITH_API_KEY, and LANGSMITH_ENDPOINT where it is not the US cloud.
    """
    from .langsmith import restore

    restore(place.open(), project, since.replace(tzinfo=UTC), dry_run)


@main.group(cls=_Group)
def export() -> None:
    """Export a LangSmith project's runs."""


@export.command("traces")
@click.option("--project", required=True, help="The LangSmith project's name.")
@click.option(
    "--since", type=_SINCE, default="1970-01-01", help="Runs from this day (or time) on, in UTC; default: all."
)
@click.option("--until", type=_SINCE, help="Up to this day (or time), in UTC.")
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
        found = rows(smith, project, since.replace(tzinfo=UTC), _utc(until))
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


def _days(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    try:
        days = float(value)
        if 0 < days <= 365_000 and (idle := timedelta(days=days)):
            return idle
    except ValueError:
        pass
    raise click.BadParameter(f"{value!r} is not a number of days, such as 30.")


@main.command(short_help="Remove old messages for good.")
@_with_store
@click.option("--idle", callback=_days, metavar="DAYS", help="Delete sessions without a write for so many days.")
@click.option(
    "--keep",
    "keep_messages",
    type=click.IntRange(1),
    metavar="N",
    help="Remove all but the newest N messages of each session, in whole turns.",
)
@_user
@click.option("--yes", is_flag=True, help="Remove it; without this, only count.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def prune(
    place: _Place, idle: timedelta | None, keep_messages: int | None, user_id: str | None, yes: bool, as_json: bool
) -> None:
    """Remove for good what need not be kept: what was cleared, idle sessions, and messages beyond the newest.

    Sessions that are in use are passed over. Deleted ones leave a tombstone without content.
    """
    from .retention import run_prune

    run_prune(place.open(), idle, keep_messages, user_id, yes, as_json)


@main.command(short_help="Show what waits in an outbox file.")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--flush", is_flag=True, help="First send what waits to the database.")
@_with_store
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def outbox(place: _Place, path: Path, flush: bool, as_json: bool) -> None:
    """Show what waits in an outbox, a file that no process is using.

    Appends that the database refused for good are shown with the reason. Exit status 1 while something is in it.
    """
    import json
    from dataclasses import asdict

    from ..outbox.file import look_into

    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise NotConfigured(f"{path} is no outbox.")
    if flush:
        with place.open(outbox=path) as store:
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
