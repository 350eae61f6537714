"""Calls over Supabase's Data API (PostgREST): each is one POST to `/rpc/<function>`."""

from __future__ import annotations

import asyncio
import re
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx
import orjson
from h2.exceptions import H2Error

from ..core.call import Call, Json
from ..core.identity import Identity
from ..core.settings import check_network
from ..core.values import loads
from ..errors import (
    CLOCK_ADVICE,
    Forbidden,
    HistoryError,
    NotConfigured,
    StoreClosed,
    Transient,
    from_code,
    is_transient,
)
from .addresses import ADDRESS, UNTRUSTED, read_key, read_url
from .base import Driver, Transport
from .loop import OwnLoop
from .observe import Meter

if TYPE_CHECKING:
    from postgrest import AsyncPostgrestClient, SyncPostgrestClient

T = TypeVar("T")
R = TypeVar("R")

# What a request raises that cannot be carried out. Where a server ends an HTTP/2 connection in the middle of an answer,
# httpx lets h2's own error through.
_FAILED: Final = (httpx.HTTPError, httpx.InvalidURL, RuntimeError, H2Error)
_OF_CLOCKS: Final = re.compile("future|not yet valid")
_CLOSED: Final = "The store was closed while this operation ran."


class DataApi(Driver[R]):
    """Calls our SQL functions over PostgREST, through some client."""

    transport: Transport = "data-api"
    key_advice = "Check that SUPABASE_KEY is a key of this project, copied whole (Supabase: Settings > API Keys)."

    @abstractmethod
    def _client(self) -> SyncPostgrestClient:
        """The client of sync calls."""

    @abstractmethod
    async def _aclient(self, residents: R) -> AsyncPostgrestClient:
        """The client of async calls, on the loop that it lives on."""

    @abstractmethod
    def _closed(self) -> HistoryError:
        """What is raised where the client was closed."""

    def attempt(
        self, call: Call[T], identity: Identity | None, replay: bool, seconds: float, meter: Meter | None = None
    ) -> T:
        client = self._client()
        request = _request(client, call, identity, self.schema, replay)
        if meter is not None:
            meter.sent += len(request["content"])
        end = time.monotonic() + seconds
        try:
            # In pieces, because httpx's own timeout is for each of them.
            with client.session.stream("POST", **request, timeout=seconds) as response:
                content = bytearray()
                for piece in response.iter_bytes():
                    content += piece
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("the answer took too long")
        except _FAILED as error:
            raise self._translate(error, client.session.is_closed) from error
        if meter is not None:
            meter.received += len(content)
        return self._answer(call, response, bytes(content), identity)

    async def aattempt(
        self,
        call: Call[T],
        identity: Identity | None,
        replay: bool,
        seconds: float,
        residents: R,
        meter: Meter | None = None,
    ) -> T:
        client = await self._aclient(residents)
        end = asyncio.get_running_loop().time() + seconds
        if identity is not None and identity.may_wait:  # not on the loop, where all operations would wait with it
            request = await asyncio.to_thread(_request, client, call, identity, self.schema, replay)
        else:
            request = _request(client, call, identity, self.schema, replay)
        if meter is not None:
            meter.sent += len(request["content"])
        try:
            async with asyncio.timeout_at(end):
                response = await client.session.post(**request, timeout=seconds)
        except (*_FAILED, TimeoutError) as error:
            raise self._translate(error, client.session.is_closed) from error
        if meter is not None:
            meter.received += len(response.content)
        return self._answer(call, response, response.content, identity)

    def _translate(self, error: Exception, is_closed: bool) -> Exception:
        if isinstance(error, RuntimeError):
            # httpx's client was closed, or the loop that it lives on; anything else is a broken connection.
            if is_closed or any(words in str(error) for words in ("closed", "different event loop", "different loop")):
                return self._closed()
            return Transient(f"the Data API could not be reached ({error})")
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL)):
            return NotConfigured("This is no address of a Data API.", advice=ADDRESS)
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
            return Transient("the Data API did not answer in time")
        words = str(error) or type(error).__name__
        advice = UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in words else None
        return Transient(f"the Data API could not be reached ({words})", advice=advice)

    def _answer(self, call: Call[T], response: httpx.Response, content: bytes, identity: Identity | None) -> T:
        if response.is_success:
            try:
                return call.parse(loads(content) if content else None)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as odd:
                raise from_code("404") from odd  # not what our functions answer: a portal's page, say
        raise self._error(response, content, identity)

    def _error(self, response: httpx.Response, content: bytes, identity: Identity | None) -> Exception:
        status = str(response.status_code)
        code, detail = _code_and_words(content)
        if code == "":  # PostgREST whose own connection to the database broke, which says nothing at all
            return Transient("the Data API lost its connection to the database", status)
        by_status = code is None
        code = status if code is None else code
        if by_status and (response.is_redirect or response.status_code in (405, 406, 501)):
            code = "404"  # a web server that takes no calls: not a Data API
        if code == "PGRST303" and _OF_CLOCKS.search(detail):  # the clocks of those who sign and check tokens differ
            return Transient(f"the Data API answered {code} ({detail})", code, CLOCK_ADVICE)
        if is_transient(code) or (code == status and response.status_code >= 500):
            advice = from_code(code, detail).advice if code == "25006" else None
            return Transient(f"the Data API answered {code}" + (f" ({detail})" if detail else ""), code, advice)
        if identity is None and code in ("PGRST301", "PGRST303"):
            return Forbidden("The Data API refused the key.", code=code, advice=self.key_advice)
        error = from_code(code, detail)
        if type(error) is not Forbidden and response.status_code in (401, 403):
            error = from_code(status, detail)
        if by_status and detail and detail.rstrip(".") not in error.says:  # a gateway's words
            error = type(error)(f"{error.says} It said: {detail.rstrip('.')}.", code=error.code, advice=error.advice)
        return error


class _Client:
    """What lives on the driver's loop: a client, once it is made."""

    def __init__(self) -> None:
        self.client: AsyncPostgrestClient | None = None

    async def close(self) -> None:
        """Close the client."""
        client, self.client = self.client, None
        if client is not None:
            await client.session.aclose()


class DataApiDriver(DataApi[_Client]):
    """Calls through clients of its own, made for a project's URL and key.

    Args:
        url: The project's URL.
        key: One of its keys.
    """

    def __init__(self, url: str, key: str, *, schema: str, deadline: float, pool_size: int) -> None:
        super().__init__(schema=schema, deadline=deadline, pool_size=pool_size)
        self._url = read_url(url)
        self._headers = _key_headers(read_key(key))

    def reset(self) -> None:
        super().reset()
        self._sync: SyncPostgrestClient | None = None
        self._loop = OwnLoop(_Client, _Client.close, _Client.close)

    def __repr__(self) -> str:
        return f"DataApiDriver({self._url!r}, schema={self.schema!r})"

    @property
    def address(self) -> str:
        """The project's URL."""
        return self._url

    @property
    def api_key(self) -> str:
        return self._headers["apikey"]

    def _limits(self) -> httpx.Limits:
        size = self.pool_size
        return httpx.Limits(max_connections=size, max_keepalive_connections=size, keepalive_expiry=60)

    def _client(self) -> SyncPostgrestClient:
        with self._lock:
            if self._sync is None:
                from postgrest import SyncPostgrestClient

                with check_network():
                    session = httpx.Client(limits=self._limits())
                self._sync = SyncPostgrestClient(
                    self._url + "/rest/v1", schema=self.schema, headers=self._headers, http_client=session
                )
            return self._sync

    async def _aclient(self, residents: _Client) -> AsyncPostgrestClient:
        if residents.client is None:
            from postgrest import AsyncPostgrestClient

            with check_network():
                session = httpx.AsyncClient(limits=self._limits())
            residents.client = AsyncPostgrestClient(
                self._url + "/rest/v1", schema=self.schema, headers=self._headers, http_client=session
            )
        return residents.client

    async def _aexecute(self, call: Call[T], identity: Identity | None, meter: Meter | None) -> T:
        return await self._loop.run(lambda residents: self._atries(call, identity, residents, meter))

    def _closed(self) -> HistoryError:
        return StoreClosed(_CLOSED)

    def is_open(self) -> bool:
        return self._sync is not None or self._loop.is_running

    def close(self) -> None:
        with self._lock:
            client, self._sync = self._sync, None
        if client is not None:
            client.session.close()
        self._loop.stop()


def _key_headers(key: str) -> dict[str, str]:
    # Legacy keys are JWTs and speak for a role themselves; the newer sb_ keys are none and go alone.
    return {"apikey": key} if key.startswith("sb_") else {"apikey": key, "Authorization": f"Bearer {key}"}


def _request(
    client: SyncPostgrestClient | AsyncPostgrestClient,
    call: Call[Any],
    identity: Identity | None,
    schema: str,
    replay: bool,
) -> dict[str, Any]:
    headers = httpx.Headers(client.headers)
    headers.update(
        {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Profile": schema,
            "Content-Profile": schema,
        }
    )
    if identity is not None:  # on this request alone, never on the shared client
        headers["Authorization"] = f"Bearer {identity.access_token()}"
    if not all(headers.get(name, "").isprintable() for name in ("apikey", "Authorization")):
        # Sent, it would be refused by an error that repeats it.
        raise NotConfigured("The key or the access token has characters that no key has.", advice="Copy it again.")
    body = orjson.dumps(call.arguments(replay=replay), default=_fragment, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    return {"url": str(client.base_url.joinpath("rpc", call.function.name)), "headers": headers, "content": body}


def _fragment(value: Any) -> Any:
    if isinstance(value, Json):
        return orjson.Fragment(value.text)
    raise TypeError


def _code_and_words(content: bytes) -> tuple[str | None, str]:
    """PostgREST's or PostgreSQL's code and words; without a code, None and a gateway's own words, if any."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None, _plain(content)
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"] | {"code": None}
    if not isinstance(body, dict):
        return None, ""
    words = next((body[name] for name in ("message", "msg", "error_description", "error") if body.get(name)), "")
    code = body.get("code")
    words = words if isinstance(words, str) else ""
    if code == "" and not words:
        return "", ""
    return (code, words) if isinstance(code, str) and code else (None, words)


def _plain(content: bytes) -> str:
    """A line of plain text, such as gateways answer; '' for a page and for what is not text."""
    text = content[:300].decode(errors="replace").strip()
    return text if len(content) < 300 and text.isprintable() and not text.startswith("<") else ""
