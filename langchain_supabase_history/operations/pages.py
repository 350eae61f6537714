"""All pages of a listing, one item after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

from ..records import Page

T = TypeVar("T")


def iterate(listing: Callable[..., Page[T]], *args: Any, **options: Any) -> Iterator[T]:
    """Go through all pages of a listing, each asked for when it is needed::

        for stored in iterate(store.messages, "session-1"):
            print(stored.message.text)

    Args:
        listing: A method that gives a `Page`: `store.messages`, `store.turns` or another one.
        *args: Its arguments.
        **options: Its options; `limit` is the size of a page.

    Returns:
        The items of all pages, one after the other.
    """
    while True:
        page = listing(*args, **options)
        yield from page
        if page.next_cursor is None:
            return
        options["cursor"] = page.next_cursor


async def aiterate(listing: Callable[..., Awaitable[Page[T]]], *args: Any, **options: Any) -> AsyncIterator[T]:
    """Async version of `iterate`."""
    while True:
        page = await listing(*args, **options)
        for item in page:
            yield item
        if page.next_cursor is None:
            return
        options["cursor"] = page.next_cursor
