"""The command `langchain-supabase-history`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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


if os.environ.get("COLUMNS") is None and not sys.stdout.isatty():
    os.environ["COLUMNS"] = "120"  # output that is piped is not folded
