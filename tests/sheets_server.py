"""A server on this machine that answers the calls that gspread makes to Google Sheets, Drive and for tokens."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import gspread
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

EMAIL = "exporter@project.iam.gserviceaccount.com"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str = "no", **more: Any) -> None:
        self.status, self.body = code, {"error": {"code": code, "message": message, "status": "X", **more}}


@dataclass
class Sheet:
    """A worksheet: rows of cells. An empty cell is None."""

    id: int
    title: str
    rows: int = 1000
    columns: int = 26
    frozen: int = 0
    hidden: set[int] = field(default_factory=set)
    cells: list[list[Any]] = field(default_factory=list)

    def set(self, row: int, column: int, value: Any) -> None:
        if row >= self.rows or column >= self.columns:
            raise Refused(400, "exceeds grid limits")
        if isinstance(value, str) and len(value.encode("utf-16-le")) > 100_000:
            raise Refused(400, "Your input contains more than the maximum of 50000 characters in a single cell.")
        while len(self.cells) <= row:
            self.cells.append([])
        line = self.cells[row]
        line.extend([None] * (column + 1 - len(line)))
        line[column] = None if value == "" else value

    def get(self, area: str) -> list[list[Any]]:
        top, left, bottom, right = corners(area)
        if top >= self.rows or (left or 0) >= self.columns:
            raise Refused(400, "exceeds grid limits")
        found = [["" if v is None else v for v in line[left : right + 1]] for line in self.cells[top : bottom + 1]]
        for line in found:
            while line and line[-1] == "":
                line.pop()
        while found and not found[-1]:
            found.pop()
        return found

    def last_row(self) -> int:
        """The number of rows up to the last with data."""
        return max((n for n, line in enumerate(self.cells, 1) if any(v is not None for v in line)), default=0)

    def records(self) -> list[dict[str, Any]]:
        header, *rows = self.cells
        return [{str(k): v for k, v in zip(header, [*row, *[None] * 99], strict=False)} for row in rows if any(row)]


def corners(area: str) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a range as people write it, from 0."""
    first, _, last = area.partition(":")
    (c1, r1), (c2, r2) = (re.fullmatch(r"([A-Z]*)(\d*)", end).groups() for end in (first, last or first))  # type: ignore[union-attr]

    def number(letters: str) -> int:
        return sum((ord(c) - 64) * int(26**n) for n, c in enumerate(reversed(letters))) - 1

    return int(r1 or 1) - 1, number(c1) if c1 else 0, int(r2 or 10**7) - 1, number(c2) if c2 else 10**4


@dataclass
class Book:
    """A spreadsheet."""

    name: str
    sheets: list[Sheet]
    readers: set[str] = field(default_factory=lambda: {EMAIL})
    editors: set[str] = field(default_factory=lambda: {EMAIL})
    trashed: bool = False

    def sheet(self, title: str) -> Sheet:
        (found,) = [sheet for sheet in self.sheets if sheet.title == title]
        return found


@dataclass
class Fault:
    """What goes wrong with the calls whose name contains a word."""

    word: str
    answer: Refused | None  # None: the connection breaks
    times: int = 1
    applied: bool = False  # whether it is done all the same


class Google:
    """Google: its spreadsheets, the calls it got, and what goes wrong."""

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self.calls: list[str] = []
        self.sizes: list[int] = []
        self.faults: list[Fault] = []
        self.after: Callable[[str], None] = lambda call: None
        self.tokens: set[str] = set()
        self.lock = threading.Lock()
        self.url = ""

    def account(self, **changes: Any) -> dict[str, Any]:
        """The key of a service account."""
        return {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "k1",
            "private_key": PEM,
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
            **changes,
        }

    def book(self, name: str = "Chats", **options: Any) -> str:
        """Make a spreadsheet as a person does, and tell its id."""
        key = f"{uuid.uuid4().hex}{uuid.uuid4().hex}"[:44]
        self.books[key] = Book(name, [Sheet(0, "Sheet1")], **options)
        return key

    # --- calls

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any, token: str) -> tuple[str, Any]:
        if path == "/token":
            return "token", self._token(body)
        if token not in self.tokens:
            raise Refused(401)
        if path == "/drive/v3/files":
            return ("create", self._create(body)) if method == "POST" else ("list", self._list(query["q"][0]))
        found = re.fullmatch(r"/(?:v4/spreadsheets|drive/v3/files)/([^/:]+)([/:].*)?", path)
        assert found, path
        book = self.books.get(found[1])
        if book is None or EMAIL not in book.readers:
            raise Refused(404, "Requested entity was not found.")
        if method != "GET" and EMAIL not in book.editors:
            raise Refused(403, "The caller does not have permission", status="PERMISSION_DENIED")
        return self._book_call(method, found[2] or "", query, body, book)

    def _book_call(self, method: str, call: str, query: dict[str, list[str]], body: Any, book: Book) -> tuple[str, Any]:
        if call == "":
            return "get", {"sheets": [{"properties": properties(sheet)} for sheet in book.sheets]}
        if call == "/permissions":
            if method == "POST":
                book.editors.add(body["emailAddress"])
                return "share", {"id": "p"}
            return "permissions", {"permissions": [{"emailAddress": address} for address in sorted(book.editors)]}
        if call == "/values:batchGet":
            assert query["valueRenderOption"] == ["UNFORMATTED_VALUE"]
            ranges = [self._range(book, area, query["majorDimension"][0]) for area in query["ranges"]]
            return "batchGet", {"valueRanges": ranges}
        if call == "/values:batchUpdate":
            assert body["valueInputOption"] == "RAW"
            for part in body["data"]:
                sheet, area = self._place(book, part["range"])
                top, left, bottom, right = corners(area)
                for r, line in enumerate(part["values"]):
                    assert top + r <= bottom
                    assert left + len(line) - 1 <= right
                    for c, value in enumerate(line):
                        if value is not None:
                            sheet.set(top + r, left + c, value)
            return "values", {}
        assert call == ":batchUpdate", call
        before = [Sheet(**{**vars(s), "cells": [[*line] for line in s.cells]}) for s in book.sheets]
        try:
            for entry in body["requests"]:
                ((kind, request),) = entry.items()
                getattr(self, f"_{kind}")(book, request)
        except BaseException:
            book.sheets = before  # all or nothing
            raise
        return next(iter(body["requests"][0])), {}

    def _place(self, book: Book, area: str) -> tuple[Sheet, str]:
        title, _, cells = area.rpartition("!")
        return book.sheet(title[1:-1].replace("''", "'")), cells

    def _range(self, book: Book, area: str, dimension: str) -> dict[str, Any]:
        sheet, cells = self._place(book, area)
        values = sheet.get(cells)
        if dimension == "COLUMNS" and values:
            width = max(map(len, values))
            values = [[line[c] if c < len(line) else "" for line in values] for c in range(width)]
        return {"range": area, **({"values": values} if values else {})}

    def _token(self, body: dict[str, list[str]]) -> dict[str, Any]:
        options: Any = {"algorithms": ["RS256"], "audience": "https://oauth2.googleapis.com/token"}
        try:
            claims = jwt.decode(body["assertion"][0], KEY.public_key(), **options)
        except jwt.PyJWTError:
            raise Refused(400) from None
        assert "https://www.googleapis.com/auth/spreadsheets" in claims["scope"]
        token = uuid.uuid4().hex
        self.tokens.add(token)
        return {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"id": self.book(body["name"])}

    def _list(self, q: str) -> dict[str, Any]:
        found = re.search(r"name='((?:[^'\\]|\\.)*)'", q)
        assert found
        assert "trashed=false" in q
        name = re.sub(r"\\(.)", r"\1", found[1]).casefold()
        books = [(key, b) for key, b in self.books.items() if b.name.casefold() == name and EMAIL in b.readers]
        return {"files": [{"id": key, "name": b.name} for key, b in books if not b.trashed]}

    # --- the requests of batchUpdate

    def _by_id(self, book: Book, request: dict[str, Any]) -> Sheet:
        found = [sheet for sheet in book.sheets if sheet.id == request["sheetId"]]
        if not found:
            raise Refused(400, "No sheet with id")
        return found[0]

    def _addSheet(self, book: Book, request: dict[str, Any]) -> None:  # noqa: N802
        asked = request["properties"]
        size = asked["gridProperties"]
        if asked["title"].casefold() in [sheet.title.casefold() for sheet in book.sheets]:
            raise Refused(400, "A sheet with the name already exists.")
        assert size["frozenRowCount"] < size["rowCount"]
        made = Sheet(asked["sheetId"], asked["title"], size["rowCount"], size["columnCount"], size["frozenRowCount"])
        book.sheets.append(made)

    def _deleteSheet(self, book: Book, request: dict[str, Any]) -> None:  # noqa: N802
        book.sheets.remove(self._by_id(book, request))
        if not book.sheets:
            raise Refused(400, "You can't remove all the sheets in a document.")

    def _updateCells(self, book: Book, request: dict[str, Any]) -> None:  # noqa: N802
        start = request["start"]
        self._enter(self._by_id(book, start), start["rowIndex"], start["columnIndex"], request)

    def _appendCells(self, book: Book, request: dict[str, Any]) -> None:  # noqa: N802
        sheet = self._by_id(book, request)
        first = sheet.last_row()
        sheet.rows = max(sheet.rows, first + len(request["rows"]))
        self._enter(sheet, first, 0, request)

    def _enter(self, sheet: Sheet, row: int, column: int, request: dict[str, Any]) -> None:
        assert request["fields"] == "userEnteredValue"
        for r, line in enumerate(request["rows"]):
            for c, cell in enumerate(line["values"]):
                entered = cell.get("userEnteredValue", {})
                assert set(entered) <= {"stringValue", "boolValue", "numberValue"}
                sheet.set(row + r, column + c, next(iter(entered.values()), None))

    def _appendDimension(self, book: Book, request: dict[str, Any]) -> None:  # noqa: N802
        sheet = self._by_id(book, request)
        name = "columns" if request["dimension"] == "COLUMNS" else "rows"
        setattr(sheet, name, getattr(sheet, name) + request["length"])

    def _updateSheetProperties(self, book: Book, request: dict[str, Any]) -> None:  # noqa: N802
        assert request["fields"] == "gridProperties.frozenRowCount"
        sheet = self._by_id(book, request["properties"])
        sheet.frozen = request["properties"]["gridProperties"]["frozenRowCount"]

    def _updateDimensionProperties(self, book: Book, request: dict[str, Any]) -> None:  # noqa: N802
        place = request["range"]
        assert (place["dimension"], request["properties"]) == ("COLUMNS", {"hiddenByUser": True})
        self._by_id(book, place).hidden |= set(range(place["startIndex"], place["endIndex"]))


def properties(sheet: Sheet) -> dict[str, Any]:
    size = {"rowCount": sheet.rows, "columnCount": sheet.columns}
    frozen = {"frozenRowCount": sheet.frozen} if sheet.frozen else {}
    return {"sheetId": sheet.id, "title": sheet.title, "gridProperties": {**size, **frozen}}


def handler(google: Google) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            at = urlsplit(self.path)
            form = "urlencoded" in self.headers.get("Content-Type", "")
            body = parse_qs(raw.decode()) if form else json.loads(raw or b"null")
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            name = f"{self.command} {at.path} {list(body['requests'][0]) if body and 'requests' in body else ''}"
            with google.lock:
                google.sizes.append(len(raw))
                fault = next((f for f in google.faults if f.word in name and f.times > 0), None)
                status, answer = 200, None
                try:
                    if fault is None or fault.applied:
                        call, answer = google.answer(self.command, unquote(at.path), parse_qs(at.query), body, token)
                        google.calls.append(call)
                        google.after(call)
                except Refused as error:
                    status, answer = error.status, error.body
            if fault is not None:
                fault.times -= 1
                if fault.answer is None:
                    return
                status, answer = fault.answer.status, fault.answer.body
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _do  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


@contextmanager
def serve() -> Iterator[Google]:
    """A Google on this machine, to which gspread of this process goes."""
    google = Google()
    server = Server(("127.0.0.1", 0), handler(google))
    google.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with redirected(google.url):
            yield google
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def redirected(url: str) -> Iterator[None]:
    """Let gspread go to a server of ours instead of Google's."""
    request = gspread.HTTPClient.request

    def elsewhere(self: gspread.HTTPClient, method: str, endpoint: str, *args: Any, **kwargs: Any) -> Any:
        return request(self, method, re.sub(r"https://(sheets|www)\.googleapis\.com", url, endpoint), *args, **kwargs)

    with mock.patch.object(gspread.HTTPClient, "request", elsewhere):
        yield
