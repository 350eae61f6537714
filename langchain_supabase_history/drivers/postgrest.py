"""Calls over Supabase's Data API (PostgREST): each is one POST to `/rpc/<function>`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx
import orjson

from ..core.call import Call, Json
from ..core.identity import Identity, token_subject
from ..core.values import loads
from ..errors import Forbidden, HistoryError, NotConfigured, StoreClosed, Transient, from_code, is_transient
from .base import Driver

if TYPE_CHECKING:
    from postgrest import AsyncPostgrestClient, SyncPostgrestClient

T = TypeVar("T")

_ADDRESS: Final = "SUPABASE_URL is like https://<project>.supabase.co."


class PostgrestDriver(Driver):
    """Calls our SQL functions through clients of its own, made for a project's URL and key."""

    def __init__(self, url: str, key: str, *, schema: str, deadline: float, pool_size: int) -> None:
        super().__init__(schema=schema, deadline=deadline, pool_size=pool_size)
        self._url = _check_url(url)
        self._headers = _key_headers(key)

    def _reset(self) -> None:
        super()._reset()
        self._client: SyncPostgrestClient | None = None
        self._aclient: AsyncPostgrestClient | None = None

    def __repr__(self) -> str:
        return f"PostgrestDriver({self._url!r}, schema={self.schema!r})"

    def _limits(self) -> httpx.Limits:
        size = self.pool_size
        return httpx.Limits(max_connections=size, max_keepalive_connections=size, keepalive_expiry=60)

    def _postgrest(self) -> SyncPostgrestClient:
        with self._lock:
            if self._client is None:
                from postgrest import SyncPostgrestClient

                self._client = SyncPostgrestClient(
                    self._url + "/rest/v1",
                    schema=self.schema,
                    headers=self._headers,
                    http_client=httpx.Client(limits=self._limits()),
                )
            return self._client

    async def _apostgrest(self) -> AsyncPostgrestClient:
        if self._aclient is None:
            from postgrest import AsyncPostgrestClient

            self._aclient = AsyncPostgrestClient(
                self._url + "/rest/v1",
                schema=self.schema,
                headers=self._headers,
                http_client=httpx.AsyncClient(limits=self._limits()),
            )
        return self._aclient

    def attempt(self, call: Call[T], identity: Identity | None, replay: bool, seconds: float) -> T:
        client = self._postgrest()
        request = _request(client, call, identity, self.schema, replay)
        end = time.monotonic() + seconds
        try:
            # In pieces, because httpx's own timeout is for each of them.
            with client.session.stream("POST", **request, timeout=seconds) as response:
                content = bytearray()
                for piece in response.iter_bytes():
                    content += piece
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("the answer took too long")
        except (httpx.HTTPError, RuntimeError) as error:
            raise self._translate(error) from error
        return _answer(call, response, bytes(content))

    async def aattempt(self, call: Call[T], identity: Identity | None, replay: bool, seconds: float) -> T:
        client = await self._apostgrest()
        end = asyncio.get_running_loop().time() + seconds
        if identity is not None and identity.may_wait:  # not on the loop, where all operations would wait with it
            request = await asyncio.to_thread(_request, client, call, identity, self.schema, replay)
        else:
            request = _request(client, call, identity, self.schema, replay)
        try:
            async with asyncio.timeout_at(end):
                response = await client.session.post(**request, timeout=seconds)
        except (httpx.HTTPError, RuntimeError, TimeoutError) as error:
            raise self._translate(error) from error
        return _answer(call, response, response.content)

    def _closed(self) -> HistoryError:
        return StoreClosed("The store was closed while this operation ran.")

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, RuntimeError):  # httpx's client was closed
            return self._closed()
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)):
            return NotConfigured("This is no address of a Data API.", advice=_ADDRESS)
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
            return Transient("the Data API did not answer in time")
        return Transient(f"the Data API could not be reached ({str(error) or type(error).__name__})")

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.session.close()
        super().close()

    async def _aclose(self) -> None:
        client, self._aclient = self._aclient, None
        if client is not None:
            await client.session.aclose()


class ClientDriver(PostgrestDriver):
    """Calls through the application's own supabase clients, which it does not close.

    Args:
        client: A `supabase.Client`, or None.
        async_client: A `supabase.AsyncClient`, or None. Without it, async operations run in a worker thread.
    """

    def __init__(self, client: Any, async_client: Any, *, schema: str, deadline: float, pool_size: int) -> None:
        Driver.__init__(self, schema=schema, deadline=deadline, pool_size=pool_size)
        self._url = str((client or async_client).supabase_url)
        self._own = client
        self._aown = async_client

    # supabase-py replaces `client.postgrest` whenever its session is refreshed: a kept one carries the old token.
    def _postgrest(self) -> SyncPostgrestClient:
        if self._own is None:
            raise NotConfigured(
                "This store has an async supabase client only.",
                advice="Use the async methods (aload, aappend, ...), or give from_client(client, async_client) both.",
            )
        client: SyncPostgrestClient = self._own.postgrest
        return client

    async def _apostgrest(self) -> AsyncPostgrestClient:
        client: AsyncPostgrestClient = self._aown.postgrest
        return client

    def _closed(self) -> HistoryError:
        return NotConfigured(
            "The application's supabase client was closed, or belongs to an event loop that has ended.",
            advice="Make an async client in the event loop that uses it, and a new store with it for another loop.",
        )

    def signed_in(self) -> str:
        token = str((self._own or self._aown).postgrest.headers.get("Authorization", "")).removeprefix("Bearer ")
        return token_subject(token) or ""

    async def aexecute(self, call: Call[T], identity: Identity | None = None) -> T:
        if self._aown is None:
            return await asyncio.to_thread(self.execute, call, identity)
        return await self._aexecute(call, identity)  # on the caller's loop, which is the client's

    def _on_loop(self, work: Any) -> Awaitable[Any]:
        raise AssertionError("a client of the application's stays on the application's loop")

    def close(self) -> None:
        """Nothing here is the driver's to close."""


def _check_url(url: object) -> str:
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise NotConfigured("SUPABASE_URL is no web address.", advice=_ADDRESS)
    return url.rstrip("/").removesuffix("/rest/v1")


def _key_headers(key: object) -> dict[str, str]:
    if not isinstance(key, str) or not key or not key.isascii() or any(c.isspace() for c in key):
        raise NotConfigured(
            "SUPABASE_KEY cannot be an API key.",
            advice="It is one of the project's keys (Supabase: Settings > API Keys): a secret or a publishable one.",
        )
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
        raise NotConfigured("The key or the access token has characters that no key has.", advice="Copy it anew.")
    body = orjson.dumps(call.arguments(replay=replay), default=_fragment, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    return {"url": str(client.base_url.joinpath("rpc", call.function.name)), "headers": headers, "content": body}


def _fragment(value: Any) -> Any:
    if isinstance(value, Json):
        return orjson.Fragment(value.text)
    raise TypeError


def _answer(call: Call[T], response: httpx.Response, content: bytes) -> T:
    if response.is_success:
        try:
            return call.parse(loads(content) if content else None)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as odd:
            raise from_code("404") from odd  # not what our functions answer: a portal's page, say
    code, detail = _error_code(response.status_code, content)
    status = str(response.status_code)
    if code == status and (response.is_redirect or response.status_code in (405, 406, 501)):
        code = "404"  # a web server that takes no calls: not a Data API
    if is_transient(code) or (code == status and response.status_code >= 500):
        raise Transient(f"the Data API answered {code}", code)
    error = from_code(code, detail)
    if type(error) is not Forbidden and response.status_code in (401, 403):
        error = from_code(status, detail)
    raise error


def _error_code(status: int, content: bytes) -> tuple[str, str]:
    """PostgREST's or PostgreSQL's code and words, else the HTTP status (a gateway's page, say)."""
    try:
        body = orjson.loads(content)
        code, detail = body["code"], body.get("message")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        code, detail = None, None
    if not isinstance(code, str) or not code:
        code = str(status)
    return code, detail if isinstance(detail, str) else ""
