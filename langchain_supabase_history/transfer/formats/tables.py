"""Tables, for spreadsheets and analysis: a row a message, or a row a conversation; as CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any, BinaryIO, Final, Literal, TypeAlias

from ...core.messages import decode_or_wrap
from ...core.values import made_plain
from ...errors import NotConfigured
from ..parts import Part
from .jsonl import dumps

Rows: TypeAlias = Literal["messages", "conversations"]
Row: TypeAlias = dict[str, Any]

MESSAGE_COLUMNS: Final[dict[str, str]] = {
    "user_id": "string",
    "session_id": "string",
    "position": "int64",
    "created_at": "string",
    "turn_id": "string",
    "turn_status": "string",
    "type": "string",
    "text": "string",
    "tool_calls": "string",
    "tool_call_id": "string",
    "tokens": "int64",
    "id": "string",
}
CONVERSATION_COLUMNS: Final[dict[str, str]] = {
    "user_id": "string",
    "session_id": "string",
    "title": "string",
    "created_at": "string",
    "updated_at": "string",
    "messages": "int64",
    "turns": "int64",
    "failed_turns": "int64",
    "input_tokens": "int64",
    "output_tokens": "int64",
    "total_tokens": "int64",
    "total_cost": "double",
    "feedback": "int64",
}
_SUMS: Final = ("input_tokens", "output_tokens", "total_tokens", "total_cost")
_BATCH: Final = 10_000


class Flattener:
    """Turns parts into the rows of a table."""

    def __init__(self, rows: Rows) -> None:
        self.columns: dict[str, str] = MESSAGE_COLUMNS if rows == "messages" else CONVERSATION_COLUMNS
        self._take = self._message if rows == "messages" else self._conversation
        self._session: Part = {}
        self._turns: dict[str, str] = {}
        self._sums: Row = {}

    def take(self, part: Part) -> Row | None:
        """The row that comes of a part, if any."""
        if part["kind"] == "session":
            self._session, self._turns = part, {}
            self._sums = {"messages": 0, "turns": 0, "failed_turns": 0}
        elif part["kind"] == "turn":
            self._turns[part["id"]] = part["status"]
        return self._take(part)

    def _message(self, part: Part) -> Row | None:
        if part["kind"] != "message" or part.get("alternative_id") is not None:
            return None
        message = decode_or_wrap(part["type"], part["data"])
        calls = getattr(message, "tool_calls", None)
        return {
            "user_id": self._session["user_id"],
            "session_id": self._session["session_id"],
            "turn_status": self._turns.get(part["turn_id"]),
            "text": made_plain(str(message.text)),
            "tool_calls": made_plain(dumps(calls).decode()) if calls else None,
            "tool_call_id": getattr(message, "tool_call_id", None),
            **{name: part[name] for name in ("position", "created_at", "turn_id", "type", "tokens", "id")},
        }

    def _conversation(self, part: Part) -> Row | None:
        if part["kind"] == "turn":
            self._sums["turns"] += part.get("alternative_id") is None
            self._sums["failed_turns"] += part["status"] == "failed"
            for name in _SUMS:  # what was spent, also on answers that were taken out; of a copy, by the original
                if part.get(name) is not None and not part.get("copied"):
                    self._sums[name] = self._sums.get(name, 0) + part[name]
        elif part["kind"] == "message":
            self._sums["messages"] += part.get("alternative_id") is None
        if part["kind"] != "end":
            return None
        return {**{name: self._session.get(name) for name in self.columns}, **part, **self._sums}


class Csv:
    """Writes rows as CSV: UTF-8, a header, quotes where needed."""

    def __init__(self, out: BinaryIO, *, rows: Rows = "messages") -> None:
        self._flatten = Flattener(rows)
        self._text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
        self._rows = csv.DictWriter(self._text, list(self._flatten.columns), extrasaction="ignore")
        self._rows.writeheader()

    def write(self, part: Part) -> None:
        """Write the row that comes of the part."""
        if (row := self._flatten.take(part)) is not None:
            self._rows.writerow(row)

    def close(self) -> None:
        """Let go of the file."""
        self._text.detach()


class Parquet:
    """Writes rows as Parquet, 10,000 at a time. Needs the extra `[parquet]`."""

    def __init__(self, out: BinaryIO, *, rows: Rows = "messages") -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise NotConfigured(
                "Parquet needs pyarrow.", advice="pip install 'langchain_supabase_history[parquet]'"
            ) from error
        self._flatten = Flattener(rows)
        kinds: dict[str, Callable[[], Any]] = {"string": pa.string, "int64": pa.int64, "double": pa.float64}
        self._schema = pa.schema([(name, kinds[kind]()) for name, kind in self._flatten.columns.items()])
        self._to_batch = pa.RecordBatch.from_pylist
        self._writer = parquet.ParquetWriter(out, self._schema, compression="zstd")
        self._rows: list[Row] = []

    def write(self, part: Part) -> None:
        """Write the row that comes of the part, when a batch is full."""
        if (row := self._flatten.take(part)) is not None:
            self._rows.append({name: row.get(name) for name in self._flatten.columns})
            if len(self._rows) == _BATCH:
                self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(self._to_batch(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        """Write the last batch and the footer."""
        self._flush()
        self._writer.close()
