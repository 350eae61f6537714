"""Calls through the application's own supabase clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.call import Call
from ..core.identity import Identity, token_subject
from ..core.settings import check_network
from ..errors import HistoryError, NotConfigured
from .data_api import DataApi
from .observe import Meter

if TYPE_CHECKING:
    from postgrest import AsyncPostgrestClient, SyncPostgrestClient

T = TypeVar("T")


class ClientDriver(DataApi[None]):
    """Calls through the application's own supabase clients, which it does not close.

    Args:
        client: A `supabase.Client`, or None.
        async_client: A `supabase.AsyncClient`, or None. Without it, async operations run in a worker thread.
    """

    key_advice = "Sign in again on the supabase client, or check the key that it was made with."

    def __init__(self, client: Any, async_client: Any, *, schema: str, deadline: float, pool_size: int) -> None:
        super().__init__(schema=schema, deadline=deadline, pool_size=pool_size)
        self._own = client
        self._aown = async_client

    def __repr__(self) -> str:
        return f"ClientDriver({self.address!r}, schema={self.schema!r})"

    @property
    def address(self) -> str:
        """The project's URL."""
        return str((self._own or self._aown).supabase_url)

    @property
    def api_key(self) -> str:
        return str((self._own or self._aown).supabase_key)

    # supabase-py replaces `client.postgrest` whenever its session is refreshed: a kept one carries the old token.
    def _client(self) -> SyncPostgrestClient:
        if self._own is None:
            raise NotConfigured(
                "This store has an async supabase client only.",
                advice="Use the async methods (aload, aappend, ...), or give from_client(client, async_client) both.",
            )
        with check_network():  # made at its first use
            client: SyncPostgrestClient = self._own.postgrest
        return client

    async def _aclient(self, residents: None) -> AsyncPostgrestClient:
        with check_network():
            client: AsyncPostgrestClient = self._aown.postgrest
        return client

    def _closed(self) -> HistoryError:
        return NotConfigured(
            "The application's supabase client was closed, or belongs to an event loop that has ended.",
            advice="Make an async client in the event loop that uses it, and a new store with it for another loop.",
        )

    def signed_in(self) -> str:
        with check_network():
            headers = (self._own or self._aown).postgrest.headers
        token = str(headers.get("Authorization", "")).removeprefix("Bearer ")
        return token_subject(token) or ""

    async def _aexecute(self, call: Call[T], identity: Identity | None, meter: Meter | None) -> T:
        if self._aown is None:
            return await asyncio.to_thread(self._tries, call, identity, meter)
        return await self._atries(call, identity, None, meter)  # on the caller's loop, which is the client's

    def is_open(self) -> bool:
        return False  # nothing here is the driver's to close

    def close(self) -> None:
        """Nothing here is the driver's to close."""
