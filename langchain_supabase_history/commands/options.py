"""Options that commands have in common: which database, whose conversations, which times."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import HistoryError, NotConfigured

if TYPE_CHECKING:
    from ..store import HistoryStore

F = TypeVar("F", bound="Callable[..., Any] | click.Command")


class Group(click.Group):
    """Shows our errors as one sentence, without a traceback, and the commands in the order in which they were made."""

    def invoke(self, ctx: click.Context) -> object:
        """Invoke a command; an error of ours, or a file that cannot be read or written, ends it with status 1."""
        try:
            return super().invoke(ctx)
        except HistoryError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:  # whoever reads has enough: click ends quietly
            raise
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'The output'}: {error.strerror or error}.") from error

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command. What a stream cannot write (a console of Windows, say) is escaped."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names."""
        return list(self.commands)


class Command(click.Command):
    """Shows its examples in front of its options."""

    def __init__(self, *args: Any, examples: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples: list[str] = [line.strip() for line in examples.strip().splitlines()]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then what the command does."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {ctx.find_root().info_name} {example}\n")  # not folded: it is copied
        super().format_help_text(ctx, formatter)


schema: Callable[[F], F] = click.option(
    "--schema", default="public", show_default=True, help="The schema of the tables."
)
as_json: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
yes: Callable[[F], F] = click.option("--yes", is_flag=True, help="Do it without asking.")
dry_run: Callable[[F], F] = click.option("--dry-run", is_flag=True, help="Change nothing, and say what would be done.")
all_users: Callable[[F], F] = click.option("--all-users", is_flag=True, help="Everybody's conversations.")


@dataclass(frozen=True)
class Place:
    """What the options say of the store.

    Attributes:
        schema: The tables' schema.
        local: The folder of an embedded PostgreSQL; "" for the default one; None for a database elsewhere.
        db_url: A connection string; None for what the environment names.
        user_id: Whose conversations; None for the application's own.
    """

    schema: str
    local: str | None
    db_url: str | None
    user_id: str | None = None

    def open(self, *, make: bool = False, **options: Any) -> HistoryStore:
        """A store for that user, to be closed. An embedded database that does not exist is only made with `make`.

        Raises:
            NotConfigured: There is no such database, or none is named.
            click.UsageError: Two are named.
        """
        from ..connect.local import default_path
        from ..store import HistoryStore

        if self.local is not None and self.db_url:
            raise click.UsageError("--local takes the place of --db-url.")
        if self.local is not None:
            folder = Path(self.local) if self.local else default_path()
            if not make and not (folder / "PG_VERSION").exists():
                raise NotConfigured(
                    f"There is no embedded database in {folder}.",
                    advice="HistoryStore.local() makes one, or name another folder.",
                )
            store = HistoryStore.local(folder, schema=self.schema, **options)
        elif self.db_url:
            store = HistoryStore.from_postgres(self.db_url, schema=self.schema, **options)
        else:
            store = HistoryStore.from_env(schema=self.schema, **options)
        return store if self.user_id is None else store.for_user(self.user_id)


def with_database(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which database it works on, and a `Place` to open it by."""

    @click.option("--db-url", metavar="URL", help="Connection string; without it, what the environment names.")
    @click.option(
        "--local",
        is_flag=False,
        flag_value="",
        metavar="[FOLDER]",
        help="The embedded PostgreSQL in FOLDER, or the default one.",
    )
    @schema
    @functools.wraps(command)
    def wrapped(*, db_url: str | None, local: str | None, schema: str, **options: Any) -> None:
        command(Place(schema, local, db_url), **options)

    return wrapped


def with_store(command: Callable[..., None]) -> Callable[..., None]:
    """The same, and the option that says whose conversations."""

    @with_database
    @click.option("--user", "user_id", metavar="ID", help="This user's conversations.")
    @functools.wraps(command)
    def wrapped(place: Place, *, user_id: str | None, **options: Any) -> None:
        command(replace(place, user_id=user_id), **options)

    return wrapped


# --- times

TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])
since: Callable[[F], F] = click.option("--since", type=TIME, metavar="TIME", help="From this day (or time) on, in UTC.")
until: Callable[[F], F] = click.option(
    "--until", type=TIME, metavar="TIME", help="Up to, but without, this day (or time), in UTC."
)


def utc(at: datetime | None) -> datetime | None:
    """A time that was given, with its zone."""
    return None if at is None else at.replace(tzinfo=UTC)


def days(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
    """A number of days, as an option's callback."""
    if value is None:
        return None
    try:
        number = float(value)
        if 0 < number <= 365_000 and (idle := timedelta(days=number)):
            return idle
    except ValueError:
        pass
    raise click.BadParameter(f"{value!r} is not a number of days, such as 30.")


def filters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the filters of a list of sessions, as one dictionary `which`."""

    @click.option("--query", metavar="TEXT", help="Part of the title or the session id.")
    @click.option("--tag", "tags", multiple=True, metavar="TAG", help="With this tag; may be given several times.")
    @click.option("--prefix", metavar="TEXT", help="The session id begins with it.")
    @since
    @until
    @click.option("--archived", is_flag=True, help="Only archived ones; without it, only the others.")
    @click.option("--all", "everything", is_flag=True, help="Archived ones too.")
    @functools.wraps(command)
    def wrapped(
        place: Place,
        *,
        query: str | None,
        tags: tuple[str, ...],
        prefix: str | None,
        since: datetime | None,
        until: datetime | None,
        archived: bool,
        everything: bool,
        **options: Any,
    ) -> None:
        which = {
            "query": query,
            "tags": list(tags) or None,
            "prefix": prefix,
            "since": utc(since),
            "until": utc(until),
            "archived": None if everything else archived,
        }
        command(place, which=which, **options)

    return wrapped


def confirm(question: str, given: bool) -> None:
    """Ask on a terminal whether to go on, unless `--yes` was given.

    Raises:
        click.UsageError: Nobody can be asked.
    """
    import sys

    if given:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say so with --yes: there is no terminal to ask on.")
    click.confirm(question, abort=True, err=True)
