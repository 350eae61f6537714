"""What the store answers with: frozen records. Unknown is None, never 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, TypeVar, overload
from uuid import UUID

from langchain_core.messages import BaseMessage

T = TypeVar("T")

Status = Literal["running", "interrupted", "failed", "completed"]


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation, without its messages.

    Attributes:
        session_id: Its name, one of its kind among the user's sessions.
        user_id: Its owner; None for a session of the application itself.
        title: As `update_session` set it, else the first question, shortened; None where there is neither.
        metadata: The application's own, as `update_session` set it.
        created_at: When it was first written to.
        updated_at: When it was last written to. Titles, tags and the like do not count.
        message_count: Of the messages that are not cleared.
        last_position: Of the newest message.
        epoch: A number that rises when messages are cleared, deleted or taken out, so that a late write is recognised.
        revision: A number that rises with every change but an append, so that a reader knows when to read again.
        tags: Labels, in the order in which they were given.
        pinned: For the application to sort by.
        archived: Whether lists leave it out unless they are asked for it.
        turn_count: Of the turns that are not cleared, failed ones included.
        total_tokens: What these turns used; None where it is not known of any.
        excerpt: The text of the last message that has one, shortened.
        forked_from: The session that it was copied from.
        deleted_at: When it was deleted; only a list with `hidden` has such sessions.
    """

    session_id: str
    user_id: str | None
    title: str | None
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    message_count: int
    last_position: int
    epoch: int
    revision: int
    tags: list[str] = field(default_factory=list)
    pinned: bool = False
    archived: bool = False
    turn_count: int = 0
    total_tokens: int | None = None
    excerpt: str | None = None
    forked_from: str | None = None
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it is stored.

    Attributes:
        id: Its row id, minted before the first try. Not LangChain's `message.id`, which identifies no row.
        position: Its place in the conversation, counted from 1. Where messages were taken out, later ones get their
            positions.
        created_at: When it was stored.
        turn_id: The turn that it belongs to.
        message: The message, as it was given.
    """

    id: UUID
    position: int
    created_at: datetime
    turn_id: UUID
    message: BaseMessage


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, all that was done for it, and the answer.

    Given to `append`, only what is known need be set; read back, the rest is None.

    Attributes:
        id: Its row id.
        status: `running`, `completed`, `failed` or `interrupted`.
        trace_id: The id of its LangSmith trace.
        run_id: The id of the trace's root run.
        project: The name of the LangSmith project.
        started_at: When it began.
        ended_at: When it ended.
        model: The model whose words the answer is.
        input_tokens: The sum over the turn's model runs.
        output_tokens: The sum over the turn's model runs.
        total_tokens: The sum over the turn's model runs.
        token_details: Cache and reasoning tokens, where the provider gives them.
        documents: What retrievers returned: id, source, score, retriever and an excerpt of each document.
        error: Of a failed turn: the class and the text of the exception.
        metadata: The application's own, and what was observed of retrievers and tools.
        ordinal: Its place among the session's turns; set by the database.
        created_at: When it was stored.
        total_cost: US dollars, as LangSmith computed it; never an estimate of ours.
        question: Of a turn that has begun and not ended: what was asked. Later it is among the messages.
    """

    id: UUID
    status: Status = "completed"
    trace_id: str | None = None
    run_id: str | None = None
    project: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    token_details: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    error: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    ordinal: int | None = None
    created_at: datetime | None = None
    total_cost: float | None = None
    question: list[BaseMessage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody thought of a turn, or of one message of it. On each there is one of a key; given again, it changes.

    Attributes:
        id: Its row id.
        turn_id: The turn that it is on, or whose message it is on.
        message_id: The row id of the message it is on; None where it is on the turn.
        key: What is judged: `"helpful"`, say.
        score: A number, or None.
        value: What is no number: a choice or a label, say.
        comment: In the user's words.
        created_at: When it was first given.
        updated_at: When it was last changed.
        sent_at: When LangSmith last accepted it; None where it has not yet, or the turn has no trace.
        unsent: Whether it, or its last change, has still to be sent to LangSmith.
    """

    id: UUID
    turn_id: UUID
    message_id: UUID | None
    key: str
    score: float | None
    value: Any
    comment: str | None
    created_at: datetime
    updated_at: datetime
    sent_at: datetime | None
    unsent: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group of turns used. The group's own fields are None where it is not grouped by them.

    Attributes:
        turns: How many, failed ones included.
        failed_turns: How many of them failed.
        unmeasured_turns: How many of them have no token counts, because the provider reported none; the sums are
            without them.
        input_tokens: The sum over the turns whose count is known; None where none is.
        output_tokens: The same of output tokens.
        total_tokens: The same of all tokens.
        total_cost: US dollars, the sum of LangSmith's own figures; None where there are none.
        session_id: The session, when grouped by session.
        user_id: The user, when grouped by user or by session.
        model: The model that answered; None also for turns of an unknown one.
        day: In UTC.
    """

    turns: int
    failed_turns: int
    unmeasured_turns: int
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    total_cost: float | None
    session_id: str | None = None
    user_id: str | None = None
    model: str | None = None
    day: date | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much `prune` or `delete_user` removed, or would remove.

    Attributes:
        sessions: Sessions deleted; of each, a row without content stays (ids, times and counters).
        trimmed: Sessions that lost their oldest messages only.
        messages: Rows removed. Hidden ones count, which no other number shows.
        turns: Rows removed.
        feedback: Rows removed.
        dry_run: Whether these are the numbers of what would be removed.
    """

    sessions: int
    trimmed: int
    messages: int
    turns: int
    feedback: int
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A message that was found.

    Attributes:
        session_id: Its session's name.
        user_id: Whose session; None for one of the application itself.
        title: Of its session.
        message: The message.
        excerpt: The part of its text around what was found, as plain text: escape it like any other.
        score: How well it matches; the higher the better, of no unit.
        marks: What was found in the excerpt: (start, end) of each place, in characters.
    """

    session_id: str
    user_id: str | None
    title: str | None
    message: StoredMessage
    excerpt: str
    score: float
    marks: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True)
class Alternative:
    """Messages that were taken out of a conversation, and may be put back until it is pruned.

    Attributes:
        id: Its id, for `switch_to`.
        position: Of the first of them, in the conversation. Alternatives of one position that follow one message stand
            for one another.
        created_at: When they were taken out.
        message_count: How many.
        excerpt: The text of the first of them that has one, shortened.
        follows: The row id of the message that they follow; None where they begin the conversation.
    """

    id: UUID
    position: int
    created_at: datetime
    message_count: int
    excerpt: str | None
    follows: UUID | None = None


@dataclass(frozen=True, slots=True)
class Reassigned:
    """How much was handed over to another user, or would be.

    Attributes:
        sessions: How many conversations.
        messages: Those of the conversations as they stand.
        renamed: Sessions that got a suffix, because the other user had one of their name.
        dry_run: Whether these are the numbers of what would be handed over.
    """

    sessions: int
    messages: int
    renamed: int
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """A conversation as it stood, for whoever holds the token.

    Attributes:
        token: What to hand out. It is stored nowhere: keep it, it cannot be shown again.
        expires_at: Until when; None for no end.
    """

    token: str = field(repr=False)
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Operation:
    """What `on_operation` is given: how one operation on the database went. Nothing in it is content or secret.

    Attributes:
        name: The SQL function, without its `chat_history_`: "append", "begin", "load" ...
        milliseconds: From its beginning to its end, all tries and the pauses between them included.
        tries: How often it was sent.
        bytes_sent: Of all tries' arguments.
        bytes_received: Of the answers.
        error: The name of the exception's class; None where it succeeded.
    """

    name: str
    milliseconds: float
    tries: int
    bytes_sent: int
    bytes_received: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Sequence[T]):
    """Some of a listing: a sequence of its items. `iterate` goes through all pages.

    Attributes:
        items: The items.
        next_cursor: Asks for the page after; None at the end.
    """

    items: Sequence[T]
    next_cursor: str | None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self.items[index]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` was answered: the messages, and where the session stood.

    Attributes:
        messages: What the model should see.
        epoch: The session's epoch, which a replay of this turn carries.
        unreadable: Rows that could not be read back and were left out.
        unrepaired: The same messages as they are stored, with what providers refuse.
    """

    messages: list[BaseMessage]
    epoch: int
    revision: int
    last_position: int
    unreadable: int = 0
    unrepaired: list[BaseMessage] = field(default_factory=list)
