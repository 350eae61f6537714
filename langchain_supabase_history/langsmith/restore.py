"""Restore conversations from a LangSmith project: each root run is a turn.

Row ids are derived from run ids, so a restore that was cut short goes on where it was, and one that is done changes
nothing. A turn that is stored already, because it was recorded while it ran, is left as it is; only its cost is filled
in. What was cleared or deleted in the store since does not come back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import BaseMessage

from ..core.observed import usage_fields
from ..errors import Conflict, InvalidInput, NotFound
from ..operations.feedback import put_feedback
from ..operations.usage import set_costs
from ..records import Turn
from .run_messages import Said, messages_of
from .traces import TracedConversations

if TYPE_CHECKING:
    from langsmith.types.run import Run


_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_OID, "langchain_supabase_history.langsmith")
_CHUNK: Final = 100
_UNREAD: Final = 100  # ids of runs that are listed
_INDEX: Final = ("ID", "START_TIME", "DOTTED_ORDER", "METADATA", "THREAD_ID")
_FIELDS: Final = (
    *_INDEX,
    "STATUS",
    "END_TIME",
    "FIRST_TOKEN_TIME",
    "ERROR",
    "INPUTS",
    "OUTPUTS",
    "TRACE_ID",
    "PROMPT_TOKENS",
    "COMPLETION_TOKENS",
    "TOTAL_TOKENS",
    "PROMPT_TOKEN_DETAILS",
    "COMPLETION_TOKEN_DETAILS",
    "TOTAL_COST",
    "FEEDBACK_STATS",
)

SESSION_KEYS: Final = ("session_id", "conversation_id", "thread_id")


# --- turns ----------------------------------------------------------------------------------------------------------


def _metadata(run: Run) -> dict[str, Any]:
    metadata: Any = run.metadata or (run.extra or {}).get("metadata")
    return dict(metadata) if isinstance(metadata, dict) else {}


def session_of(run: Run) -> tuple[str | None, str | None]:
    """The session and the user that a run's metadata names."""
    metadata = _metadata(run)
    named = (metadata[key] for key in SESSION_KEYS if metadata.get(key) not in (None, ""))
    session = next(named, None) or run.thread_id
    user = metadata.get("user_id")
    return (None if session is None else str(session)), (user if isinstance(user, str) and user else None)


def turn_of(run: Run, project: str, messages: Sequence[BaseMessage]) -> Turn:
    """The turn that a root run is."""
    assert run.id is not None
    known = usage_fields(messages)
    if run.total_tokens:
        details = {
            "input_token_details": run.prompt_token_details and run.prompt_token_details.raw,
            "output_token_details": run.completion_token_details and run.completion_token_details.raw,
        }
        known |= {
            "input_tokens": run.prompt_tokens,
            "output_tokens": run.completion_tokens,
            "total_tokens": run.total_tokens,
            "token_details": {name: counts for name, counts in details.items() if counts} or None,
        }
    metadata: dict[str, Any] = {"restored_from": "langsmith"}
    if run.start_time:
        metadata["trace_started_at"] = _aware(run.start_time).isoformat()
        if run.first_token_time:
            metadata["first_token_seconds"] = (run.first_token_time - run.start_time).total_seconds()
    return Turn(
        uuid.uuid5(_NAMESPACE, run.id),
        status="failed" if run.status == "ERROR" else "completed",
        trace_id=run.trace_id or run.id,
        run_id=run.id,
        project=project,
        started_at=run.start_time and _aware(run.start_time),
        ended_at=run.end_time and _aware(run.end_time),
        error=run.error and run.error[:1000],
        metadata=metadata,
        total_cost=run.total_cost or None,
        **known,
    )


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)


# --- the restore ----------------------------------------------------------------------------------------------------


@dataclass
class Restored:
    """What a restore did, or, as a dry run, would do.

    Attributes:
        runs: Root runs that LangSmith has.
        sessions: With turns that were restored now; so `turns`, `messages` and `feedback`.
        known: Turns that were stored already; `costs` of them got a cost.
        without_session: Runs whose metadata names no session.
        without_messages: Runs in which no question and no answer could be recognised; `unread` are the ids of the first
            hundred of them.
        refused: Turns of sessions that were cleared or deleted in the store.
        running: Root runs that have not ended: they are for a later restore, when their answers are there.
    """

    runs: int = 0
    sessions: int = 0
    turns: int = 0
    messages: int = 0
    feedback: int = 0
    known: int = 0
    costs: int = 0
    without_session: int = 0
    without_messages: int = 0
    refused: int = 0
    running: int = 0
    unread: list[str] = field(default_factory=list)


@dataclass
class Restore:
    """One restore of a project into a store.

    Args:
        store: Where to; with `for_user`, all sessions become that user's.
        project: The project's name.
        since: Root runs that began from this time on.
        dry_run: Write nothing.
        on_progress: Called with how many root runs are done, and how many there are.
    """

    store: TracedConversations
    project: str
    since: datetime
    dry_run: bool = False
    on_progress: Callable[[int, int], None] = lambda done, of: None
    report: Restored = field(default_factory=Restored, init=False)

    def run(self) -> Restored:
        """Restore, and return what was done.

        Raises:
            HistoryError: LangSmith or the database cannot be reached or refuses. Run it again: it goes on.
        """
        if self.since.tzinfo is None:
            raise InvalidInput("since must be a datetime with a time zone.")
        sessions = self._index()
        total, done = sum(map(len, sessions.values())), 0
        self.on_progress(0, total)
        for (user_id, session_id), run_ids in sessions.items():
            restored = _Session(self, self.store if user_id is None else self.store.for_user(user_id), session_id)
            for start in range(0, len(run_ids), _CHUNK):
                chunk = run_ids[start : start + _CHUNK]
                restored.take(self._whole(chunk))
                done += len(chunk)
                self.on_progress(done, total)
        return self.report

    def _index(self) -> dict[tuple[str | None, str], list[str]]:
        """The ids of root runs, by session, in the order in which they began. Payloads are read later, in parts."""
        found: dict[tuple[str | None, str], list[tuple[str, str]]] = {}
        for run in self.store.langsmith.root_runs(self.project, self.since, _INDEX):
            self.report.runs += 1
            session_id, user_id = session_of(run)
            if session_id is None or run.id is None:
                self.report.without_session += 1
                continue
            owner = user_id if self.store.scope.user_id is None else None
            order = run.dotted_order or (run.start_time.isoformat() if run.start_time else "")
            found.setdefault((owner, session_id), []).append((order, run.id))
        return {key: [run_id for _, run_id in sorted(runs)] for key, runs in sorted(found.items(), key=_oldest)}

    def _whole(self, run_ids: list[str]) -> list[Run]:
        runs = self.store.langsmith.root_runs(self.project, self.since, _FIELDS, ids=run_ids)
        by_id = {run.id: run for run in runs}
        return [by_id[run_id] for run_id in run_ids if run_id in by_id]


def _oldest(item: tuple[Any, list[tuple[str, str]]]) -> tuple[str, str]:
    return min(item[1])


class _Session:
    """One session under restore."""

    def __init__(self, restore: Restore, store: TracedConversations, session_id: str) -> None:
        self.restore, self.report, self.store, self.session_id = restore, restore.report, store, session_id
        self.said = Said()
        self.turns: dict[str, Turn] = {}  # by the run that they are
        self.counted = False
        self.cleared = bool(self._epoch())
        for turn in _pages(store.turns, session_id):
            if turn.run_id:
                self.turns[turn.run_id] = turn
        self.said.add([stored.message for stored in _pages(store.messages, session_id)])

    def _epoch(self) -> int | None:
        """How often it was cleared; None where there is no such session (any more)."""
        try:
            return self.store.session(self.session_id).epoch
        except NotFound:
            return None

    def take(self, runs: Sequence[Run]) -> None:
        """Restore the turns that these root runs are, in their order, and the feedback on them."""
        judged: list[str] = []
        for run in runs:
            assert run.id is not None
            try:
                stored = self._turn(run)
            except Conflict:
                if self._epoch() == 0:
                    raise
                self.report.refused += 1  # the session was cleared or deleted since, and is not to come back
                continue
            if stored is not None:
                self.turns[run.id] = stored
                if run.feedback_stats:
                    judged.append(run.id)
        if judged:
            self._feedback(judged)

    def _turn(self, run: Run) -> Turn | None:
        known = self.turns.get(run.id or "")
        if known is not None:
            self._cost(known, run)
            return known
        if self.cleared:
            raise Conflict("The session was cleared; what it held before does not come back.")
        if run.status == "PENDING":
            self.report.running += 1
            return None
        messages = messages_of(run, self.said)
        if not messages:
            self.report.without_messages += 1
            if len(self.report.unread) < _UNREAD:
                self.report.unread.append(str(run.id))
            return None
        turn = turn_of(run, self.restore.project, messages)
        if not self.restore.dry_run:
            ids = [uuid.uuid5(_NAMESPACE, f"{run.id}:{n}") for n in range(len(messages))]
            self.store.append(self.session_id, messages, ids=ids, turn=turn, epoch=0)
        self.said.add(messages)
        self.report.turns += 1
        self.report.messages += len(messages)
        self._count_session()
        return turn

    def _count_session(self) -> None:
        self.report.sessions += not self.counted
        self.counted = True

    def _cost(self, known: Turn, run: Run) -> None:
        self.report.known += 1
        if known.total_cost is None and run.total_cost:
            self.report.costs += 1
            if not self.restore.dry_run:
                cost = {"session_id": self.session_id, "turn_id": str(known.id), "total_cost": run.total_cost}
                self.store.run(set_costs(self.store.scope, [cost]))

    def _feedback(self, run_ids: list[str]) -> None:
        stored = {item.id for item in _pages(self.store.feedback, self.session_id)} if self.turns else set()
        for given in self.store.langsmith.feedback_on(run_ids):
            turn = self.turns.get(str(given.run_id))
            if turn is None:
                continue
            self.report.feedback += given.id not in stored
            if self.restore.dry_run:
                continue
            score = float(given.score) if isinstance(given.score, (int, float)) else None
            self.store.run(
                put_feedback(
                    self.store.scope,
                    self.session_id,
                    turn,
                    given.key[:200] or "unnamed",
                    score=score,
                    value=given.value,
                    comment=given.comment[:10_000] if given.comment else None,
                    id=given.id,
                    sent_at=_aware(given.modified_at),
                    created_at=_aware(given.created_at),
                )
            )


def _pages(listing: Callable[..., Any], session_id: str) -> Iterator[Any]:
    cursor: str | None = None
    while True:
        page = listing(session_id, limit=1000, cursor=cursor)
        yield from page
        if (cursor := page.next_cursor) is None:
            return
