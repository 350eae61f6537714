"""Access to Google Sheets: credentials, the spreadsheet, and calls that wait while Google is busy. Needs gspread."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import gspread
import tenacity
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.oauth2.service_account import Credentials
from gspread.urls import DRIVE_FILES_API_V3_URL

from ..core.settings import as_path
from ..errors import Forbidden, HistoryError, InvalidInput, NotConfigured, NotFound, Unavailable

R = TypeVar("R")

VARIABLE: Final = "GOOGLE_SHEETS_CREDENTIALS"
_SCOPES: Final = ("https://www.googleapis.com/auth/spreadsheets", "https://www.googleapis.com/auth/drive")
_CALLS_A_MINUTE: Final = 55  # Google's quota is 60 reads and 60 writes for each user
_TIMEOUTS: Final = (10.0, 180.0)  # seconds to connect, and for an answer
_ATTEMPTS: Final = 9  # while Google is busy: about three minutes of waiting between them
_CONNECT_ATTEMPTS: Final = 5  # without an answer: about 15 seconds
_URL: Final = re.compile(r"/spreadsheets/d/([\w-]+)", re.ASCII)
_ID: Final = re.compile(r"[\w-]{25,}", re.ASCII)
_HOW: Final = "docs/google-sheets.md shows each step."
_BUSY: Final = "Try again in some minutes: what is written stays, and the rest is added."


def pause(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


# --- credentials


def service_account(credentials: Mapping[str, Any] | str | os.PathLike[str] | None) -> dict[str, Any]:
    """The key of a service account: given, as JSON, as the path of its file; or from GOOGLE_SHEETS_CREDENTIALS.

    Raises:
        NotConfigured: There is none, or it is no key of a service account.
        InvalidInput: It is none of these.
    """
    name = "credentials" if credentials is not None else VARIABLE
    found = os.environ.get(VARIABLE, "").strip() if credentials is None else credentials
    if isinstance(found, str) and not found.strip():
        raise NotConfigured(
            "There are no credentials for Google Sheets.",
            advice=f"Set {VARIABLE} to the JSON of a service account's key, or to the path of its file. {_HOW}",
        )
    if isinstance(found, (str, os.PathLike)):
        found = _parsed(_text_of(found, name), name)
    if not isinstance(found, Mapping):
        raise InvalidInput(f"{name} must be a dict, JSON text or the path of a file.")
    info = dict(found)
    if info.get("type") != "service_account" or not isinstance(info.get("private_key"), str):
        raise NotConfigured(
            f"{name} is no key of a service account.",
            advice=f"Google Cloud: IAM > Service Accounts > Keys > Add key > JSON. {_HOW}",
        )
    if not str(info.get("token_uri")).startswith(("https://", "http://")):
        raise NotConfigured(f"{name} has no token_uri.", advice=f"Copy the JSON file of the key as it is. {_HOW}")
    info["private_key"] = info["private_key"].replace("\\n", "\n")  # of TOML and .env files that do not unescape
    return info


def _text_of(found: str | os.PathLike[str], name: str) -> str:
    if isinstance(found, str) and found.lstrip().startswith("{"):
        return found
    try:
        return Path(as_path(found, name)).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):  # the path is not repeated: it may be a key that was not recognised
        raise NotConfigured(
            f"{name} is neither JSON nor the path of a file that can be read.",
            advice=f"Give the whole JSON, from the first brace to the last, or the path of its file. {_HOW}",
        ) from None


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise NotConfigured(
            f"{name} is not valid JSON.",
            advice=f"Copy the file of the key as it is; in TOML, between three single quotes. {_HOW}",
        ) from None


# --- calls


class Client(gspread.HTTPClient):
    """Stays within Google's quotas: it waits before a call that would exceed them."""

    def __init__(self, auth: Any, session: Any = None) -> None:
        super().__init__(auth, session)
        self.set_timeout(_TIMEOUTS)
        self._calls = {reads: deque[float](maxlen=_CALLS_A_MINUTE) for reads in (True, False)}

    def request(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Send a request."""
        calls = self._calls[method == "get"]
        if len(calls) == calls.maxlen and (wait := calls[0] + 60 - time.monotonic()) > 0:
            pause(wait)
        calls.append(time.monotonic())
        return super().request(method, *args, **kwargs)


def _will_pass(error: BaseException) -> bool:
    if isinstance(error, gspread.exceptions.APIError):
        status = error.response.status_code
        return status in (408, 429) or status >= 500 or (status == 403 and "ateLimitExceeded" in _reasons(error))
    return isinstance(error, (OSError, TransportError)) or (isinstance(error, GoogleAuthError) and error.retryable)


def _reasons(error: gspread.exceptions.APIError) -> str:
    """The codes in an answer of Google's, which are in other places in Drive's answers than in Sheets'."""
    return json.dumps([error.error.get("errors"), error.error.get("details"), error.error.get("status")])


@dataclass(frozen=True, slots=True)
class Grid:
    """A worksheet's size."""

    sheet_id: int
    rows: int
    columns: int
    frozen_rows: int


class Spreadsheet:
    """A spreadsheet, through the calls that an export needs. None of them tries twice: see `patiently`.

    Attributes:
        created: Whether it was made just now.
    """

    def __init__(self, client: Client, key: str, email: str, *, created: bool) -> None:
        self._client, self._key, self._email = client, key, email
        self.created = created
        self.url: str = f"https://docs.google.com/spreadsheets/d/{key}"

    def patiently(self, do: Callable[[], R]) -> R:
        """Do something that may be done again, until Google is not busy any more.

        Raises:
            HistoryError: Google refused it, or was busy for minutes.
        """
        with google_errors(self._email):
            return _patiently(do)

    def close(self) -> None:
        """Close its connections."""
        self._client.session.close()

    def grids(self) -> dict[str, Grid]:
        """The worksheets by title."""
        found = self._client.fetch_sheet_metadata(self._key, {"fields": "sheets.properties"})
        grids = {}
        for sheet in found.get("sheets", ()):
            properties = sheet["properties"]
            size = properties.get("gridProperties", {})  # a chart on a sheet of its own has none
            counts = [size.get(name, 0) for name in ("rowCount", "columnCount", "frozenRowCount")]
            grids[properties["title"]] = Grid(properties["sheetId"], *counts)
        return grids

    def read(self, ranges: Sequence[str], *, by_column: bool = False) -> list[list[list[Any]]]:
        """The values of ranges; empty ones at an end are left out."""
        dimension = "COLUMNS" if by_column else "ROWS"
        found = self._client.values_batch_get(
            self._key, list(ranges), {"valueRenderOption": "UNFORMATTED_VALUE", "majorDimension": dimension}
        )
        return [part.get("values", []) for part in found["valueRanges"]]

    def write(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Write values into ranges, text as text; None leaves a cell as it is."""
        self._client.values_batch_update(self._key, {"valueInputOption": "RAW", "data": list(data)})

    def change(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Change the spreadsheet: all of the requests, or none."""
        self._client.batch_update(self._key, {"requests": list(requests)})

    def remove(self, sheet_ids: Sequence[int]) -> None:
        """Remove worksheets; those that are gone already are left alone."""
        there = {grid.sheet_id for grid in self.grids().values()}
        if gone := [{"deleteSheet": {"sheetId": sheet_id}} for sheet_id in sheet_ids if sheet_id in there]:
            self.change(gone)

    def share(self, addresses: Sequence[str]) -> None:
        """Let people edit it, who are not written to; those who may already are left alone."""
        known = {str(found.get("emailAddress", "")).casefold() for found in self._client.list_permissions(self._key)}
        for address in addresses:
            if address.casefold() not in known:
                self._client.insert_permission(self._key, address, "user", "writer", notify=False)


def _enough(state: tenacity.RetryCallState) -> bool:
    error = state.outcome and state.outcome.exception()
    answered = isinstance(error, gspread.exceptions.APIError)
    return state.attempt_number >= (_ATTEMPTS if answered else _CONNECT_ATTEMPTS)


def _patiently(do: Callable[[], R]) -> R:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_will_pass),
        wait=tenacity.wait_exponential(max=64) + tenacity.wait_random(0, 1),
        stop=_enough,
        sleep=pause,
        reraise=True,
    )(do)


# --- the spreadsheet


def id_in_url(spreadsheet: str) -> str | None:
    """The id in the URL of a spreadsheet; None where it is no URL.

    Raises:
        InvalidInput: It is the URL of something else.
    """
    if not spreadsheet.startswith(("http://", "https://")):
        return None
    if (found := _URL.search(spreadsheet)) is None:
        raise InvalidInput(
            "The URL is not that of a spreadsheet, which begins https://docs.google.com/spreadsheets/d/ and an id."
        )
    return found[1]


def open_spreadsheet(
    account: dict[str, Any], spreadsheet: str, *, create: bool = False, share_with: Sequence[str] = ()
) -> Spreadsheet:
    """Open a spreadsheet by its id, URL or name; make it, where it is asked for and there is none of this name.

    Raises:
        HistoryError: It cannot be found, may not be used, or the key is none.
    """
    try:
        auth = Credentials.from_service_account_info(account, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, AttributeError):  # their texts and causes may hold the key
        raise NotConfigured(
            "The key of the service account cannot be used: a field is missing, or private_key is damaged.",
            advice=f"Copy the JSON file of the key as it is. {_HOW}",
        ) from None
    email = str(account.get("client_email"))
    client = Client(auth)
    try:
        with google_errors(email):
            key, created = _find(client, spreadsheet, create, email)
            found = Spreadsheet(client, key, email, created=created)
            if share_with:
                _patiently(lambda: found.share(share_with))
            return found
    except BaseException:
        client.session.close()
        raise


def _find(client: Client, spreadsheet: str, create: bool, email: str) -> tuple[str, bool]:
    if (key := id_in_url(spreadsheet)) is not None:
        return key, False
    if _ID.fullmatch(spreadsheet):
        try:
            _patiently(lambda: client.fetch_sheet_metadata(spreadsheet, {"fields": "spreadsheetId"}))
            return spreadsheet, False
        except gspread.exceptions.APIError as error:
            if error.response.status_code != 404:
                raise
    created = False

    def look() -> str | None:
        nonlocal created
        keys = _named(client, spreadsheet)
        if len(keys) > 1:
            raise InvalidInput(f"There are {len(keys)} spreadsheets of this name: give the id or the URL of one.")
        if keys or not create:
            return keys[0] if keys else None
        created = True
        body = {"name": spreadsheet, "mimeType": "application/vnd.google-apps.spreadsheet"}
        made = client.request("post", DRIVE_FILES_API_V3_URL, json=body, params={"supportsAllDrives": True})
        return str(made.json()["id"])

    key = _patiently(look)
    if key is None:
        raise NotFound("The service account sees no spreadsheet of this id or name.", advice=_share(email))
    return key, created


def _named(client: Client, name: str) -> list[str]:
    """The ids of the spreadsheets of this name, whose case counts; without those in the bin."""
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    params = {
        "q": f"mimeType='application/vnd.google-apps.spreadsheet' and trashed=false and name='{escaped}'",
        "fields": "files(id,name)",
        "pageSize": 100,
        "supportsAllDrives": True,
        "includeItemsFromAllDrives": True,
    }
    files = client.request("get", DRIVE_FILES_API_V3_URL, params=params).json()["files"]
    return [file["id"] for file in files if file["name"] == name]


# --- errors


def _share(email: str) -> str:
    return (
        f"Open the spreadsheet in a browser, press Share, and add {email} as an editor; or, for a new one, pass "
        "create=True and share_with='you@example.com'."
    )


@contextmanager
def google_errors(email: str) -> Iterator[None]:
    """Turn what gspread and google-auth raise into errors of ours."""
    try:
        yield
    except gspread.exceptions.APIError as error:
        raise _from_answer(error, email) from error
    except RefreshError as error:
        raise Forbidden(
            f"Google refused the key of the service account {email}.",
            advice="It was deleted or disabled, or this machine's clock is wrong: make a new key. " + _HOW,
        ) from error
    except (OSError, GoogleAuthError) as error:
        raise Unavailable(f"Google could not be reached: {type(error).__name__}.", advice=_BUSY) from error


def _from_answer(error: gspread.exceptions.APIError, email: str) -> HistoryError:
    status, reasons = error.response.status_code, _reasons(error)
    code = str(status)
    if status == 404:
        return NotFound("The service account sees no such spreadsheet.", code=code, advice=_share(email))
    if status == 403 and ("SERVICE_DISABLED" in reasons or "accessNotConfigured" in reasons):
        return Forbidden(
            "An API that the export needs is not enabled in the service account's project.",
            code=code,
            advice="Google Cloud: APIs & Services > Library: enable the Google Sheets API, and for names instead of "
            "ids the Google Drive API.",
        )
    if status == 403 and "storageQuotaExceeded" in reasons:
        return Forbidden(
            "The service account has no storage of its own in Google Drive, so it cannot make a spreadsheet.",
            code=code,
            advice=f"Make one yourself, share it with {email} as an editor, and give its URL.",
        )
    if status in (401, 403):
        return Forbidden("Google refused access to the spreadsheet.", code=code, advice=_share(email))
    if status in (408, 429) or status >= 500:
        says = "Google's quota is used up" if status == 429 else f"Google answered {status}"
        return Unavailable(f"{says}, for minutes.", code=code, advice=_BUSY)
    says = str(error.error.get("message", ""))[:200].rstrip(".")
    full = "A spreadsheet holds ten million cells: export fewer sessions, or into several spreadsheets."
    other = "Look whether cells of the worksheets are protected or merged, and whether the addresses exist."
    return HistoryError(f"Google refused the change: {says}.", code=code, advice=full if "10000000" in says else other)
