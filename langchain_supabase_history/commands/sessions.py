"""Commands about conversations: list, show, search, rename, fork, delete, hand over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

import click

from ..operations.sessions import Order
from . import options
from .options import Command, Place, confirm, utc, with_database, with_store
from .output import plain, print_json, print_table, progress

if TYPE_CHECKING:
    from ..records import Session, StoredMessage
    from ..store import HistoryStore

_COLUMNS = ("session", "user", "title", "tags", "messages", "turns", "tokens", "created", "active")
_NUMBERS = ("messages", "turns", "tokens")
_PAGE = 1000


def _row(session: Session) -> tuple[object, ...]:
    labels = ["pinned"] * session.pinned + ["archived"] * session.archived
    return (
        session.session_id,
        session.user_id,
        session.title,
        [*session.tags, *labels] or "",
        session.message_count,
        session.turn_count,
        session.total_tokens,
        session.created_at,
        session.updated_at,
    )


@click.command(
    cls=Command,
    short_help="List conversations.",
    examples="""
    sessions --user ada
    sessions --all-users --since 2026-01-01 --limit 0 > sessions.tsv
    sessions --query weekend --json""",
)
@with_store
@options.filters
@options.all_users
@click.option("--order", type=click.Choice(get_args(Order)), default="activity", show_default=True, help="By what.")
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="So many; 0 for all.")
@options.as_json
def sessions(place: Place, which: dict[str, Any], all_users: bool, order: Order, limit: int, as_json: bool) -> None:
    """List conversations, the newest activity first: of the application itself, of a user, or of everybody."""
    with place.open() as store:
        found = _pages(store, limit, order=order, all_users=all_users, **which)
        if as_json:
            print_json(list(found))
        else:
            print_table(_COLUMNS, map(_row, found), numbers=_NUMBERS)


def _pages(store: HistoryStore, limit: int, **which: Any) -> Iterator[Session]:
    left, cursor = limit or None, None
    while True:
        page = store.sessions(**which, limit=min(left or _PAGE, _PAGE), cursor=cursor)
        yield from page.items
        left = None if left is None else left - len(page.items)
        cursor = page.next_cursor
        if cursor is None or left == 0:
            return


@click.command(
    cls=Command,
    short_help="Show a conversation.",
    examples="""
    show trip --user ada
    show trip --times --tokens --full | less -R""",
)
@click.argument("session_id", metavar="SESSION")
@with_store
@click.option("--times", is_flag=True, help="When each message was stored.")
@click.option("--tokens", is_flag=True, help="The model and the tokens of each turn.")
@click.option("--full", is_flag=True, help="Tool calls and results in full length.")
@options.as_json
def show(place: Place, session_id: str, times: bool, tokens: bool, full: bool, as_json: bool) -> None:
    """Show what was said in a conversation, failed turns included. Tool calls and results are one line each."""
    from .transcript import print_transcript

    with place.open() as store:
        session = store.session(session_id)
        if as_json:
            messages = [message for page in _message_pages(store, session_id) for message in page]
            print_json(
                {
                    "session": session,
                    "messages": [
                        {
                            "id": stored.id,
                            "position": stored.position,
                            "created_at": stored.created_at,
                            "turn_id": stored.turn_id,
                            "type": stored.message.type,
                            "data": stored.message.model_dump(mode="json", exclude={"type"}),
                        }
                        for stored in messages
                    ],
                }
            )
            return
        turns = {turn.id: turn for turn in _turns(store, session_id)} if tokens else {}
        print_transcript(session, _message_pages(store, session_id), turns, times=times, full=full)


def _message_pages(store: HistoryStore, session_id: str) -> Iterator[Sequence[StoredMessage]]:
    cursor = None
    while True:
        page = store.messages(session_id, limit=_PAGE, cursor=cursor)
        yield page.items
        if (cursor := page.next_cursor) is None:
            return


def _turns(store: HistoryStore, session_id: str) -> Iterator[Any]:
    cursor = None
    while True:
        page = store.turns(session_id, limit=_PAGE, cursor=cursor)
        yield from page.items
        if (cursor := page.next_cursor) is None:
            return


@click.command(
    cls=Command,
    short_help="Search messages.",
    examples="""
    search "sao paulo" --user ada
    search invoice --session orders --json""",
)
@click.argument("query")
@with_store
@click.option("--session", "session_id", metavar="SESSION", help="Only in this conversation.")
@options.since
@options.until
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="So many.")
@options.as_json
def search(place: Place, query: str, session_id: str | None, since: Any, until: Any, limit: int, as_json: bool) -> None:
    """Search questions and answers by their words, whatever their case and accents; the best come first."""
    with place.open() as store:
        found = store.search(query, session_id=session_id, since=utc(since), until=utc(until), limit=limit).items
    if as_json:
        print_json(
            [
                {
                    "session_id": hit.session_id,
                    "user_id": hit.user_id,
                    "title": hit.title,
                    "message_id": hit.message.id,
                    "position": hit.message.position,
                    "created_at": hit.message.created_at,
                    "type": hit.message.message.type,
                    "excerpt": hit.excerpt,
                    "marks": hit.marks,
                    "score": hit.score,
                }
                for hit in found
            ]
        )
        return
    rows = [
        (hit.session_id, hit.user_id, hit.title, hit.message.created_at, hit.message.message.type, hit.excerpt)
        for hit in found
    ]
    print_table(("session", "user", "title", "at", "type", "excerpt"), rows)


@click.command(cls=Command, short_help="Set a conversation's title.", examples='rename trip "A weekend in São Paulo"')
@click.argument("session_id", metavar="SESSION")
@click.argument("title")
@with_store
@options.as_json
def rename(place: Place, session_id: str, title: str, as_json: bool) -> None:
    """Set a conversation's title; an empty one goes back to the first question."""
    with place.open() as store:
        session = store.update_session(session_id, title=title or None)
    if as_json:
        print_json(session)
    else:
        click.echo(f"{plain(session_id)} is called {plain(session.title)!r}.")


@click.command(
    cls=Command,
    short_help="Copy a conversation.",
    examples="""
    fork trip trip-2
    fork trip trip-2 --upto 4""",
)
@click.argument("session_id", metavar="SESSION")
@click.argument("new_session_id", metavar="NEW")
@with_store
@click.option("--upto", type=click.IntRange(1), metavar="POSITION", help="Up to this message; without it, all.")
@options.as_json
def fork(place: Place, session_id: str, new_session_id: str, upto: int | None, as_json: bool) -> None:
    """Copy a conversation, or its beginning, to a new name, with its turns and feedback."""
    with place.open() as store:
        session = store.fork_session(session_id, new_session_id, upto=upto)
    if as_json:
        print_json(session)
    else:
        click.echo(f"{plain(new_session_id)} has {session.message_count:,} messages of {plain(session_id)}.")


@click.command(cls=Command, short_help="Delete conversations.", examples="delete trip bread --user ada --yes")
@click.argument("session_ids", metavar="SESSION...", nargs=-1, required=True)
@with_store
@options.yes
@options.as_json
def delete(place: Place, session_ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete conversations with all they hold. Asks before on a terminal. Status 1 where there was none of a name."""
    confirm(f"Delete {len(session_ids)} conversation{'s' * (len(session_ids) > 1)} for good?", yes)
    with place.open() as store:
        deleted = {session_id: store.delete_session(session_id) for session_id in session_ids}
    if as_json:
        print_json(deleted)
    else:
        for session_id, was_there in deleted.items():
            click.echo(f"{plain(session_id)}: {'deleted' if was_there else 'there is none'}")
    if not all(deleted.values()):
        raise SystemExit(1)


@click.command(cls=Command, short_help="Delete all of a person.", examples="delete-user ada --yes")
@click.argument("user_id", metavar="USER")
@with_database
@options.yes
@options.as_json
def delete_user(place: Place, user_id: str, yes: bool, as_json: bool) -> None:
    """Delete all conversations of a user. Asks before on a terminal."""
    confirm(f"Delete all conversations of {plain(user_id)} for good?", yes)
    with place.open() as store:
        deleted = store.delete_user(user_id)
    if as_json:
        print_json(deleted)
    else:
        click.echo(f"Deleted {deleted.sessions:,} sessions with {deleted.messages:,} messages.")


@click.command(
    cls=Command,
    short_help="Hand conversations over to another user.",
    examples="""
    reassign guest-7 ada --dry-run
    reassign guest-7 ada --session trip""",
)
@click.argument("from_user_id", metavar="FROM")
@click.argument("to_user_id", metavar="TO")
@with_store
@click.option("--session", "session_id", metavar="SESSION", help="Only this conversation.")
@options.dry_run
@options.as_json
def reassign(
    place: Place, from_user_id: str, to_user_id: str, session_id: str | None, dry_run: bool, as_json: bool
) -> None:
    """Hand a user's conversations over to another, as when a guest signs in. Names that meet get a suffix."""
    with place.open() as store, progress("handing over"):
        if session_id is None:
            done = store.reassign_user(from_user_id, to_user_id, dry_run=dry_run)
        else:
            done = store.for_user(from_user_id).reassign_session(session_id, to_user_id, dry_run=dry_run)
    if as_json:
        print_json(done)
    else:
        verb = "Would hand over" if dry_run else "Handed over"
        click.echo(f"{verb} {done.sessions:,} sessions with {done.messages:,} messages; {done.renamed:,} renamed.")


COMMANDS = (sessions, show, search, rename, fork, delete, delete_user, reassign)
