"""Root runs of a LangSmith project as a table: csv, json or jsonl, one row a turn."""

from __future__ import annotations

import csv
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from .client import LangSmith
from .restore import session_of

if TYPE_CHECKING:
    from langsmith.types.run import Run

FORMATS: Final = ("csv", "json", "jsonl")
COLUMNS: Final = (
    "run_id",
    "session_id",
    "user_id",
    "name",
    "start_time",
    "end_time",
    "latency_seconds",
    "status",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "total_cost",
    "error",
    "feedback",
)
_SELECTS: Final = (
    "ID",
    "NAME",
    "START_TIME",
    "END_TIME",
    "LATENCY_SECONDS",
    "STATUS",
    "ERROR_PREVIEW",
    "METADATA",
    "THREAD_ID",
    "PROMPT_TOKENS",
    "COMPLETION_TOKENS",
    "TOTAL_TOKENS",
    "TOTAL_COST",
    "FEEDBACK_STATS",
)


def rows(smith: LangSmith, project: str, since: datetime, until: datetime | None = None) -> Iterator[dict[str, Any]]:
    """A row for each root run of a project since a time, in LangSmith's order. Unknown is None.

    Raises:
        HistoryError: LangSmith cannot be reached, refuses, or knows no such project.
    """
    for run in smith.root_runs(project, since, _SELECTS, until=until):
        yield _row(run)


def _row(run: Run) -> dict[str, Any]:
    session_id, user_id = session_of(run)
    # Feedback of a key is its average score, or how often each value was given.
    feedback = {
        key: stats.avg if stats.avg is not None else stats.values for key, stats in (run.feedback_stats or {}).items()
    }
    known = run.total_tokens or None  # LangSmith says 0 where it does not know
    return {
        "run_id": run.id,
        "session_id": session_id,
        "user_id": user_id,
        "name": run.name,
        "start_time": run.start_time and run.start_time.isoformat(),
        "end_time": run.end_time and run.end_time.isoformat(),
        "latency_seconds": run.latency_seconds,
        "status": run.status and run.status.lower(),
        "input_tokens": known and run.prompt_tokens,
        "output_tokens": known and run.completion_tokens,
        "total_tokens": known,
        "total_cost": run.total_cost,
        "error": run.error_preview,
        "feedback": feedback,
    }


def write(found: Iterable[dict[str, Any]], format: str, out: IO[str]) -> int:
    """Write rows as they come, and return how many there were. In csv, feedback is a JSON object and unknown is empty.

    Nothing is written before the first row is there, so that an error at once leaves nothing behind.
    """
    found = iter(found)
    found = chain(list(islice(found, 1)), found)
    count = 0
    if format == "csv":
        table = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in found:
            count += 1
            table.writerow({**row, "feedback": json.dumps(row["feedback"]) if row["feedback"] else None})
        return count
    if format == "json":
        out.write("[")
    for count, row in enumerate(found, 1):
        line = json.dumps(row, ensure_ascii=False)
        out.write(line + "\n" if format == "jsonl" else (",\n" if count > 1 else "\n") + line)
    if format == "json":
        out.write("\n]\n")
    return count


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A file to write to, which takes the place of what is at `path` when the block ends; after an error, that stays.

    `click.File(atomic=True)` does not serve: it puts the half-written file there too. What is no file (a pipe, a
    terminal) is written to as it is.

    Raises:
        OSError: It cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="") as out:
            yield out
        return
    path = path.resolve()
    beside = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex}")
    try:
        with beside.open("x", encoding="utf-8", newline="") as out:
            if path.exists():
                shutil.copymode(path, beside)
            yield out
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
