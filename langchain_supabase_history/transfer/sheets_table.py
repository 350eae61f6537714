"""A worksheet as a table whose rows are found by their ids, wherever a person has moved them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..core.values import made_plain
from ..errors import Conflict

if TYPE_CHECKING:
    from .sheets_google import Grid, Spreadsheet

Value: TypeAlias = str | bool | int | float | None

ID: Final = "id"
CHECKSUM: Final = "checksum"
MAX_CELL: Final = 50_000  # Google's limit, in UTF-16 units
_MAX_BYTES: Final = 1_000_000  # of the rows of one request; Google advises 2 MB at the most
_MAX_ROWS: Final = 2000
_ROWS_A_READ: Final = 50_000


@dataclass(slots=True)
class Written:
    """How many rows were written, and how many cells were cut."""

    added: int = 0
    updated: int = 0
    cut: int = 0


def cut(text: str) -> str:
    """Text that fits into a cell; a mark says how much there was of a longer one."""
    units = text.encode("utf-16-le")
    if len(units) <= 2 * MAX_CELL:
        return text
    mark = f"... [cut, {len(text)} characters in all]"
    return units[: 2 * (MAX_CELL - len(mark))].decode("utf-16-le", "ignore") + mark


class Table:
    """A worksheet, made where it is missing. Rows that are known and unchanged are not written.

    A hidden column has a checksum of what was written, so that rows are compared without reading them. Columns may be
    moved, and a person's own columns are left alone.
    """

    def __init__(self, book: Spreadsheet, title: str, columns: Sequence[str], written: Written) -> None:
        self._book, self._title, self._written = book, title, written
        self._columns = [*columns, CHECKSUM]
        self._at: dict[str, int] = {}  # columns to their places in the sheet, from 0
        self._sheet_id = 0
        self._known: dict[str, tuple[int, str]] = {}  # ids to rows, from 1, and checksums
        self._new: dict[str, list[Value]] = {}
        self._changed: dict[str, list[Value]] = {}
        self._bytes = 0
        book.patiently(self._open)

    # --- rows

    def put(self, row: Mapping[str, Any]) -> None:
        """Write a row, with others, if it is new or has changed.

        Args:
            row: Values by column; others are left out. `id` is text that no other row has.
        """
        cells = [self._cell(row.get(name)) for name in self._columns[:-1]]
        line = json.dumps(cells)
        checksum = "x" + blake2b(line.encode(), digest_size=8).hexdigest()  # never like a number
        key = row[ID]
        waiting = self._new if key not in self._known else self._changed
        if key in waiting:
            waiting[key] = [*cells, checksum]
            return
        if key in self._known and self._known[key][1] == checksum:
            return
        waiting[key] = [*cells, checksum]
        self._bytes += len(line) + 40 * len(cells)
        if self._bytes >= _MAX_BYTES or len(self._new) + len(self._changed) >= _MAX_ROWS:
            self.flush()

    def _cell(self, value: Any) -> Value:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        text = made_plain(str(value))
        short = cut(text)
        self._written.cut += short is not text
        return short

    def flush(self) -> None:
        """Write what waits."""
        if self._changed:
            self._book.patiently(self._update)
        if self._new:
            self._append()
        self._bytes = 0

    def _update(self) -> None:
        self._look_up()  # a person may have sorted since
        for key in [key for key in self._changed if key not in self._known]:
            self._new[key] = self._changed.pop(key)
        last = _letters(max(self._at.values()))
        data = [
            {"range": self._range(f"A{row}:{last}{row}"), "values": [[_raw(value) for value in cells]]}
            for row, cells in ((self._known[key][0], self._placed(cells)) for key, cells in self._changed.items())
        ]
        if data:
            self._book.write(data)
        self._remember(self._changed)
        self._written.updated += len(self._changed)
        self._changed = {}

    def _append(self) -> None:
        tried = False

        def attempt() -> None:
            nonlocal tried
            if tried:  # it may have been done, and its answer lost
                self._look_up()
            missing = {key: cells for key, cells in self._new.items() if key not in self._known}
            tried = True
            if missing:
                rows = [{"values": [_entered(value) for value in self._placed(cells)]} for cells in missing.values()]
                entry = {"sheetId": self._sheet_id, "rows": rows, "fields": "userEnteredValue"}
                self._book.change([{"appendCells": entry}])

        self._book.patiently(attempt)
        self._remember(self._new)
        self._written.added += len(self._new)
        self._new = {}

    def _remember(self, rows: Mapping[str, list[Value]]) -> None:
        for key, cells in rows.items():
            row, _ = self._known.get(key, (0, ""))
            self._known[key] = (row, str(cells[-1]))

    def _placed(self, cells: Sequence[Value]) -> list[Any]:
        """Values in the sheet's order of columns; `...` for columns that are not ours."""
        placed: list[Any] = [...] * (max(self._at.values()) + 1)
        for name, value in zip(self._columns, cells, strict=True):
            placed[self._at[name]] = value
        return placed

    # --- the worksheet

    def _open(self) -> None:
        grids = self._book.grids()
        # Titles differ by more than case in a spreadsheet.
        self._title = next((title for title in grids if title.casefold() == self._title.casefold()), self._title)
        grid = grids.get(self._title)
        header = [] if grid is None or not grid.rows else self._header()
        if header and ID not in header:
            raise Conflict(
                "A worksheet of the spreadsheet has the name of one of the export's and other columns.",
                advice=f"Rename the worksheet {self._title[:100]!r}, or give another name: "
                f"worksheets={{'messages': 'Chat messages'}}, say.",
            )
        missing = [name for name in self._columns if name not in header]
        self._at = {name: header.index(name) for name in self._columns if name in header}
        self._at |= {name: len(header) + n for n, name in enumerate(missing)}
        self._sheet_id = secrets.randbelow(2**31 - 1) + 1 if grid is None else grid.sheet_id
        if changes := self._changes(grid, missing, len(header)):
            self._book.change(changes)
        if grid is not None and ID not in missing:
            self._look_up()
            if missing:  # all rows are to get these columns
                self._known = {key: (row, "") for key, (row, _) in self._known.items()}

    def _header(self) -> list[str]:
        (rows,) = self._book.read([self._range("1:1")])
        return [str(name).strip() for name in rows[0]] if rows else []

    def _changes(self, grid: Grid | None, missing: Sequence[str], start: int) -> list[dict[str, Any]]:
        """What makes the worksheet, its columns and its frozen header."""
        properties: dict[str, Any] = {"sheetId": self._sheet_id}
        changes: list[dict[str, Any]] = []
        end = start + len(missing)
        if grid is None:
            size = {"rowCount": 2, "columnCount": end, "frozenRowCount": 1}
            changes.append({"addSheet": {"properties": {**properties, "title": self._title, "gridProperties": size}}})
        else:
            if grid.columns < end:
                more = {**properties, "dimension": "COLUMNS", "length": end - grid.columns}
                changes.append({"appendDimension": more})
            if grid.rows < 2:
                changes.append({"appendDimension": {**properties, "dimension": "ROWS", "length": 2 - grid.rows}})
            if not grid.frozen_rows:
                frozen = {**properties, "gridProperties": {"frozenRowCount": 1}}
                fields = "gridProperties.frozenRowCount"
                changes.append({"updateSheetProperties": {"properties": frozen, "fields": fields}})
        if missing:
            place = {**properties, "rowIndex": 0, "columnIndex": start}
            rows = [{"values": [_entered(name) for name in missing]}]
            changes.append({"updateCells": {"start": place, "rows": rows, "fields": "userEnteredValue"}})
        if CHECKSUM in missing:
            place = {**properties, "dimension": "COLUMNS", "startIndex": end - 1, "endIndex": end}
            hidden = {"range": place, "properties": {"hiddenByUser": True}, "fields": "hiddenByUser"}
            changes.append({"updateDimensionProperties": hidden})
        return changes

    def _look_up(self) -> None:
        """Read which row has which id and checksum."""
        grid = self._book.grids().get(self._title)
        header = [] if grid is None else self._header()
        if grid is None or any(name not in header for name in self._columns):
            raise Conflict(
                "A worksheet was renamed, or its columns were removed, while it was written.",
                advice="Export again: the rest is added.",
            )
        self._sheet_id, self._at = grid.sheet_id, {name: header.index(name) for name in self._columns}
        self._known = {}
        columns = [_letters(self._at[ID]), _letters(self._at[CHECKSUM])]
        for first in range(2, grid.rows + 1, _ROWS_A_READ):
            last = min(first + _ROWS_A_READ - 1, grid.rows)
            found = self._book.read([self._range(f"{c}{first}:{c}{last}") for c in columns], by_column=True)
            ids, checksums = (values[0] if values else [] for values in found)
            for row, (key, checksum) in enumerate(zip_longest(ids[: last - first + 1], checksums), first):
                if key not in (None, ""):
                    self._known.setdefault(str(key), (row, str(checksum)))

    def _range(self, cells: str) -> str:
        return "'{}'!{}".format(self._title.replace("'", "''"), cells)


def _entered(value: Any) -> dict[str, Any]:
    """A cell of a request. Text is text here, whatever it begins with."""
    if value is None or value is ...:
        return {}
    kind = "boolValue" if isinstance(value, bool) else "stringValue" if isinstance(value, str) else "numberValue"
    return {"userEnteredValue": {kind: value}}


def _raw(value: Any) -> Any:
    """A value of a request; None there leaves a cell as it is."""
    return "" if value is None else None if value is ... else value


def _letters(column: int) -> str:
    """The name of a column, from 0: A, B, ... AA."""
    letters = ""
    column += 1
    while column:
        column, digit = divmod(column - 1, 26)
        letters = chr(ord("A") + digit) + letters
    return letters
