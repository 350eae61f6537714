"""A conversation as people read it, on a terminal or in a pipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import orjson
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from ..records import Session, StoredMessage, Turn
from .output import in_terminal, plain

_COLOURS: Final = {"human": "bold cyan", "ai": "bold green", "tool": "dim", "system": "bold magenta"}
_FOLDED: Final = 100
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def print_transcript(
    session: Session,
    pages: Iterable[Sequence[StoredMessage]],
    turns: Mapping[UUID, Turn],
    *,
    times: bool,
    full: bool,
) -> None:
    """Print a conversation.

    Args:
        session: The conversation.
        pages: Its messages, in pages.
        turns: What is said of a turn behind its last message; none, for nothing.
        times: Whether to say when each message was stored.
        full: Whether tool calls and results are shown in full length.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)

    def put(text: str, style: str = "") -> None:
        console.print(Text(text, style=style if in_terminal() else ""))

    put(plain(session.title or session.session_id), "bold")
    before: UUID | None = None
    for page in pages:
        for stored in page:
            if before is not None and stored.turn_id != before:
                _put_turn(put, turns.get(before))
            before = stored.turn_id
            put("")
            put(_head(stored, times), _COLOURS.get(stored.message.type, "bold"))
            for line in _lines(stored.message, full):
                put(line, "dim" if line.startswith(("→ ", "← ")) else "")
    if before is not None:
        _put_turn(put, turns.get(before))


def _put_turn(put: Any, turn: Turn | None) -> None:
    if turn is not None:
        tokens = "tokens unknown" if turn.total_tokens is None else f"{turn.total_tokens:,} tokens"
        put(f"({', '.join(filter(None, (turn.status, turn.model and plain(turn.model), tokens)))})", "dim")


def _head(stored: StoredMessage, times: bool) -> str:
    message = stored.message
    name = f" {plain(message.name)}" if message.name else ""
    at = f"  {stored.created_at.astimezone():%Y-%m-%d %H:%M:%S}" if times else ""
    return f"{plain(message.type)}{name}{at}"


def _lines(message: BaseMessage, full: bool) -> Iterable[str]:
    text = _CONTROL.sub(" ", message.text.encode("utf-8", "replace").decode())
    if isinstance(message, ToolMessage):
        yield "← " + (text if full else _folded(text))
    elif text:
        yield text
    if isinstance(message.content, list):
        others = [b.get("type") for b in message.content if isinstance(b, dict)]
        for kind in others:
            if kind not in ("text", "tool_use", "tool_call", "function_call"):
                yield f"[{plain(kind)}]"
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            args = plain(orjson.dumps(call["args"], default=str).decode())
            yield f"→ {plain(call['name'])} {args if full else _folded(args)}"


def _folded(text: str) -> str:
    line = plain(text)
    return line if len(line) <= _FOLDED else line[: _FOLDED - 1] + "…"
