"""What can go wrong, as one tree, and the one table from a server's code to a class.

::

    HistoryError
     ├─ NotConfigured     no database is configured, or its address or key cannot be right
     ├─ NotInstalled      the database has no schema of ours (or an older one)
     ├─ Unavailable       the database could not be reached within the deadline
     │   └─ StoreClosed   ... because this store was closed while the operation ran
     ├─ StatementTimeout  the database gave up on the statement
     ├─ Forbidden         refused login, wrong key, row level security; never retried
     ├─ NotFound          no such session
     ├─ Conflict          a known message id with other content; a replay of what was erased
     ├─ InvalidInput      refused before anything was written
     │   ├─ InvalidSession
     │   └─ InvalidMessage
     ├─ OutboxFailed      the outbox's own file could not be used
     └─ NotSaved          a turn ended and could not be stored; carries its output and messages

A class is chosen by SQLSTATE, PostgREST code or HTTP status, never by a message's text. A driver's own exception is the
`__cause__`. No key, token or password is in any message. Errors can be pickled and copied: text and fields stay as they
are, of the causes only those of this tree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


class HistoryError(Exception):
    """Root of this library's errors. Its text is what happened, then what to do next.

    Attributes:
        code: The SQLSTATE, PostgREST code or HTTP status that it was made from, or None.
        says: What happened.
        advice: What to do next; may be empty.
    """

    advice: str = ""

    def __init__(self, message: str = "", *, code: str | None = None, advice: str | None = None) -> None:
        self.code = code
        self.says = message
        if advice is not None:
            self.advice = advice
        super().__init__(" ".join(part for part in (self.says, self.advice) if part))

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class: its parameters are others than `args`. The cause of a driver may not be picklable.
        cause = self.__cause__ if isinstance(self.__cause__, HistoryError) else None
        return _restored, (type(self), self.args, self.__dict__, cause)


def _restored(
    cls: type[HistoryError], args: tuple[Any, ...], fields: dict[str, Any], cause: HistoryError | None
) -> HistoryError:
    """An error as it was when it was pickled or copied."""
    error = cls.__new__(cls, *args)
    error.__dict__.update(fields)
    error.__cause__ = cause
    return error


class NotConfigured(HistoryError):
    """No database is configured, or its address or key cannot be right."""


class NotInstalled(HistoryError):
    """The database does not know this library's functions."""

    advice = (
        "Run `langchain-supabase-history migrate` (with `--schema` for a store that has one), or paste what "
        "`migrate --print` gives into the Supabase SQL editor. If that was just done, the Data API may not have "
        "noticed: run `notify pgrst, 'reload schema'` there."
    )


class Unavailable(HistoryError):
    """The database could not be reached within the deadline, retries included. Nothing is known to be stored."""

    advice = (
        "Check the address and the network, and that the project is not paused (`langchain-supabase-history doctor` "
        "looks at each); then try again."
    )


class StoreClosed(Unavailable):
    """The store was closed by another thread or task while this operation ran."""

    advice = "Close the store when nothing uses it any more; used again, it opens again."


class StatementTimeout(HistoryError):
    """The database cancelled the statement (SQLSTATE 57014). Not retried: it would take as long again."""

    advice = (
        "Read less at once (a window, smaller pages), or raise the limit: `alter role authenticated set "
        "statement_timeout = '15s'`, for the role that asks."
    )


class Forbidden(HistoryError):
    """The database refused the login, the key, the token or the row. Never retried."""

    advice = "Check the key or password, and whose session it is."


class NotFound(HistoryError):
    """There is no such session (of this user)."""

    advice = "It was deleted, is another user's, or has no message yet: the first append makes it."


class Conflict(HistoryError):
    """What is to be written contradicts what is stored, or would bring back what was erased since."""

    advice = "Nothing was written. Load the session again; a new message needs an id of its own."


class InvalidInput(HistoryError, ValueError):
    """An argument that cannot be right; refused before anything was written."""


class InvalidSession(InvalidInput):
    """A session id, user id, cursor, window or schema name that cannot be right."""


class InvalidMessage(InvalidInput):
    """A message that cannot be stored; the text names the field."""


class OutboxFailed(HistoryError):
    """The outbox's own file could not be used, when the database was away too. The messages were not stored."""

    advice = "Look at the disk: is it full, is the file writable?"


class NotSaved(HistoryError):
    """A turn ended and could not be stored. The reason is the `__cause__`.

    Attributes:
        output: What the turn gave, so that the application need not run it again.
        messages: The messages that were not stored.
    """

    advice = "The output is in `.output`, the messages are in `.messages`."

    def __init__(self, message: str, *, output: Any, messages: Sequence[BaseMessage], code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.output = output
        self.messages: list[BaseMessage] = list(messages)


class Transient(Exception):
    """Inside a driver: this try failed in a way that may pass. Users see `Unavailable`, with the advice if any."""

    def __init__(self, message: str, code: str | None = None, advice: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.advice = advice


_ASK_WHO = (
    "A public key alone may read nothing: use store.as_user(access_token) for a signed-in user, or the secret "
    "(service role) key on a server. A user has only sessions of that user's own. Where grants are missing, "
    "`select chat_history_grant()` gives them, `select chat_history_grant('app')` to an application's own role."
)
_TOO_LARGE: Final = "Append fewer messages at once, or keep large content elsewhere and store where it is."
_UNREADABLE: Final = "Look for a turn's or feedback's value that JSON or PostgreSQL does not take, such as a NUL."
# libpq has one kind of error for whatever a server says to a login, too many connections included.
LOGIN_ADVICE: Final = (
    "Check user, password and database name; Supabase's pooler wants the user as postgres.<project>. Where it has too "
    "many connections: close other clients, go through a pooler, or raise the role's connection limit."
)
FRESH_TOKEN = "Pass a fresh access token, or a callable that gives one, to store.as_user(...)."  # noqa: S105

CLOCK_ADVICE: Final = (
    "The clocks of the server that signs access tokens and of the one that checks them differ: try again in some "
    "seconds, and set this machine's clock if it signs tokens itself."
)

# Code -> (class, message, advice or None for the class's own). `PTnnn` are raised by our SQL functions, whose words go
# in front, as they do for {detail}; nowhere else, for they may repeat what a message says.
_CODES: Final[dict[str, tuple[type[HistoryError], str, str | None]]] = {
    "PT400": (InvalidSession, "", None),
    "PT404": (NotFound, "", None),
    "PT409": (Conflict, "", None),
    "PT422": (InvalidMessage, "", None),
    # A table or migration of others in the way of ours.
    "42P07": (Conflict, "", "Rename what is in the way, or install into another schema."),
    "23505": (Conflict, "The same message id stands twice in one call.", None),
    "22P02": (InvalidMessage, "The database could not read an argument.", _UNREADABLE),
    "22P05": (InvalidMessage, "The database could not read an argument.", _UNREADABLE),
    "22003": (InvalidInput, "The database refused a number: {detail}.", "It is out of its range: correct it."),
    "22007": (InvalidInput, "The database could not read a time.", "Write it as ISO 8601, with a time zone."),
    "22008": (InvalidInput, "The database refused a time.", "It is out of range: correct it."),
    "22023": (
        NotConfigured,
        "The database refused a setting: {detail}.",
        "as_user(...) needs Supabase's roles: `create role authenticated`, then `select chat_history_grant()`.",
    ),
    "23514": (InvalidInput, "The database refused a value: {detail}.", "It is out of its range: correct it."),
    "54000": (InvalidMessage, "The message is too large for the database.", _TOO_LARGE),
    "413": (InvalidMessage, "The message is too large for the Data API.", _TOO_LARGE),
    "42883": (NotInstalled, "The database does not know a function of this library.", None),
    "42703": (NotInstalled, "The database has another version of this library's tables.", None),
    "42725": (NotInstalled, "The database knows a function of this library twice.", None),
    "42P01": (NotInstalled, "The database does not know a table of this library.", None),
    "3F000": (NotInstalled, "The schema does not exist.", None),
    "PGRST202": (NotInstalled, "The Data API does not know a function of this library.", None),
    "PGRST203": (NotInstalled, "The Data API knows a function of this library twice.", None),
    "PGRST205": (NotInstalled, "The Data API does not know a table of this library.", None),
    "PGRST106": (
        NotConfigured,
        "The Data API does not serve this schema.",
        "Add it to 'Exposed schemas' in the project's Data API settings.",
    ),
    "404": (
        NotConfigured,
        "The server has no Data API at this address.",
        "SUPABASE_URL is like https://<project>.supabase.co, without a path.",
    ),
    "42501": (Forbidden, "The database refused this for the role: {detail}.", _ASK_WHO),
    "401": (
        Forbidden,
        "The Data API refused the key.",
        "Check that SUPABASE_KEY is a key of this project, copied whole (Supabase: Settings > API Keys).",
    ),
    "403": (Forbidden, "The Data API refused the request.", _ASK_WHO),
    "PGRST300": (Forbidden, "The Data API has no key to check tokens with.", "Set the Data API's JWT secret."),
    "PGRST301": (
        Forbidden,
        "The Data API refused the access token: it is expired, or not of this project.",
        FRESH_TOKEN,
    ),
    "PGRST302": (Forbidden, "The Data API wants a key.", _ASK_WHO),
    "PGRST303": (
        Forbidden,
        "The Data API refused the access token's claims: it is expired, or not meant for it.",
        FRESH_TOKEN,
    ),
    "42704": (
        InvalidInput,
        "The database does not know a name: {detail}.",
        "Of text search configurations, `select cfgname from pg_ts_config` lists what it has.",
    ),
    "25006": (
        Unavailable,
        "The database is read-only: {detail}.",
        "A full disk or a failover makes a project read-only: look at its database settings (Supabase: Settings > "
        "Database), and whether the address is a read replica's; then try again.",
    ),
    "53300": (
        Unavailable,
        "The database has too many connections: {detail}.",
        "Close other clients, lower pool_size, go through the transaction pooler (port 6543), or raise the limit.",
    ),
    "53100": (HistoryError, "The database's disk is full.", "Free space, or let the disk grow; then try again."),
    "57014": (StatementTimeout, "The database cancelled the statement.", None),
    "28P01": (Forbidden, "The database refused the login: {detail}.", LOGIN_ADVICE),
    "28000": (Forbidden, "The database refused the login: {detail}.", LOGIN_ADVICE),
}

# Another try may succeed: connection trouble, a server that starts, stops or fails over, deadlock, serialization,
# too many connections, lock timeout; PostgREST's own (no connection, cache loading, pool timeout), and a gateway's.
_TRANSIENT: Final = re.compile(
    r"08...|53[023]00|57P0.|40001|40P01|55P03|25006|PGRST00[0-3]|408|425|429|500|502|503|504|52[0-9]|530|540"
)


def is_transient(code: str | None) -> bool:
    """Whether a further try may succeed after this code. No code means that the connection broke."""
    return code is None or bool(_TRANSIENT.fullmatch(code))


def from_code(code: str, detail: str = "") -> HistoryError:
    """The error for a server's code.

    Args:
        code: SQLSTATE, PostgREST code or HTTP status.
        detail: The server's own words, repeated where our functions raised it (`PTnnn`) or nothing better is known.
    """
    detail = detail.strip().rstrip(".") or "it gave no details"
    if code not in _CODES:
        advice = "`langchain-supabase-history doctor` may find the reason."
        return HistoryError(f"The database reported {code}: {detail}.", code=code, advice=advice)
    cls, message, advice_or_none = _CODES[code]
    text = message.replace("{detail}", detail) or f"{detail[:1].upper()}{detail[1:]}."
    return cls(text, code=code, advice=advice_or_none)
