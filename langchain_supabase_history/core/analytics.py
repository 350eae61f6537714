"""What the analytics answer with, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from .rows import fields_of, read_time


@dataclass(frozen=True, slots=True)
class Activity:
    """How the turns of a day, of a model, or of all went.

    Attributes:
        turns: How many, failed ones included.
        failed_turns: How many of them failed.
        interrupted_turns: How many of them were interrupted.
        unmeasured_turns: How many of them have no known tokens; the sums are without them.
        sessions: In how many conversations they were.
        users: Of how many users; the application's own conversations have none.
        input_tokens: The sum over the turns whose count is known; None where none is.
        output_tokens: The same of output tokens.
        total_tokens: The same of all tokens.
        total_cost: US dollars, the sum of LangSmith's own figures; None where none is known.
        median_seconds: How long half of the completed turns took at the most.
        p95_seconds: How long 95 % of them took at the most.
        median_first_token_seconds: The median time to the first token of a streamed answer.
        p95_first_token_seconds: The time within which 95 % of them had their first token.
        day: Of the day's turns; None for those of a model and of all.
        model: The model that answered; None for those of a day and of all, and of an unknown model.
    """

    turns: int
    failed_turns: int
    interrupted_turns: int
    unmeasured_turns: int
    sessions: int
    users: int
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    total_cost: float | None
    median_seconds: float | None
    p95_seconds: float | None
    median_first_token_seconds: float | None
    p95_first_token_seconds: float | None
    day: date | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class FeedbackSummary:
    """What was thought, of one key.

    Attributes:
        key: What is judged: "helpful", say.
        given: How many rated.
        average_score: None where nobody gave a number.
        comments: How many wrote one.
    """

    key: str
    given: int
    average_score: float | None
    comments: int


@dataclass(frozen=True, slots=True)
class DocumentUse:
    """How often a document was retrieved.

    Attributes:
        source: The document's source, or where it has none its id.
        turns: In how many turns.
    """

    source: str
    turns: int


@dataclass(frozen=True, slots=True)
class Analytics:
    """How an application is used.

    Attributes:
        total: Of all turns.
        days: Of each day that has turns, the oldest first.
        models: Of each model, the most used first.
        feedback: By key.
        documents: The most used ones, of the newest days that together have 50,000 turns.
        documents_since: When these days begin; None where there are no others.
    """

    total: Activity
    days: list[Activity]
    models: list[Activity]
    feedback: list[FeedbackSummary]
    documents: list[DocumentUse]
    documents_since: datetime | None


def _read_activity(row: dict[str, Any]) -> Activity:
    """A group of turns."""
    day = None if row["day"] is None else date.fromisoformat(row["day"])
    cost = None if row["total_cost"] is None else float(row["total_cost"])
    seconds = {}
    for name in ("seconds", "first_token_seconds"):
        for kind, value in zip(("median", "p95"), row[name] or (None, None), strict=True):
            seconds[f"{kind}_{name}"] = None if value is None else float(value)
    return Activity(**fields_of(Activity, {**row, **seconds, "day": day, "total_cost": cost}))


def read_analytics(reply: Any) -> Analytics:
    """All parts of the analytics."""
    groups: dict[str, list[Activity]] = {"total": [], "day": [], "model": []}
    for row in reply["groups"]:
        groups[row["kind"]].append(_read_activity(row))
    (total,) = groups["total"]
    return Analytics(
        total=total,
        days=groups["day"],
        models=groups["model"],
        feedback=[FeedbackSummary(**fields_of(FeedbackSummary, row)) for row in reply["feedback"]],
        documents=[DocumentUse(**fields_of(DocumentUse, row)) for row in reply["documents"]],
        documents_since=read_time(reply["documents_since"]),
    )
