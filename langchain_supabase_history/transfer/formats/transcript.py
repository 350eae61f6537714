"""Transcripts for people: Markdown, and HTML in one file that can be printed, without scripts or requests.

What somebody wrote is shown as it was written: in HTML it is escaped, in Markdown it stands in a quotation, so that it
cannot pass for a heading of the transcript.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import orjson
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from ...records import StoredMessage
from ..parts import Assembler, Conversation, Part

_NAMES: Final = {"human": "Human", "ai": "AI", "tool": "Tool", "system": "System"}
_LINE_ENDS: Final = re.compile("\r\n?")
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def _who(message: BaseMessage) -> str:
    name = _NAMES.get(message.type, message.type)
    return f"{name} ({message.name})" if message.name else name


def _text(message: BaseMessage) -> str:
    """What can be read of a message: its text, and a word for each block that is none."""
    if isinstance(message.content, str):
        return _plain(message.content)
    parts = []
    for block in message.content:
        if isinstance(block, str):
            parts.append(block)
        elif block.get("type") in ("text", "output_text", "input_text"):
            parts.append(str(block.get("text", "")))
        elif block.get("type") not in ("tool_use", "tool_call", "function_call"):
            parts.append(f"[{block.get('type', 'content')}]")
    return _plain("\n".join(parts))


def _plain(text: str) -> str:
    return _CONTROL.sub("\ufffd", _LINE_ENDS.sub("\n", text))


def _calls(message: BaseMessage) -> Iterator[tuple[str, str]]:
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            yield call["name"], orjson.dumps(call["args"], default=str, option=orjson.OPT_INDENT_2).decode()


def _time(stored: StoredMessage) -> str:
    return stored.created_at.strftime("%Y-%m-%d %H:%M:%S %Z").strip()


def _title(conversation: Conversation) -> str:
    return " ".join((conversation.title or conversation.session_id).split())


class Markdown:
    """Writes conversations as Markdown."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._assemble = Assembler()

    def write(self, part: Part) -> None:
        """Write the conversation that ends with the part."""
        if (conversation := self._assemble.take(part)) is not None:
            self._out.write(self._conversation(conversation).encode("utf-8", "replace"))

    def close(self) -> None:
        """Nothing belongs to the end."""

    def _conversation(self, conversation: Conversation) -> str:
        user = f"user {_escape(conversation.user_id)}, " if conversation.user_id else ""
        when = f"{conversation.created_at:%Y-%m-%d %H:%M %Z}"
        lines = [
            f"# {_escape(_title(conversation))}",
            "",
            f"Session {_escape(conversation.session_id)}, {user}{when}",
            "",
        ]
        for stored in conversation.messages:
            message = stored.message
            lines += [f"**{_escape(_who(message))}** · {_time(stored)}", ""]
            if text := _text(message):
                lines += [*(f"> {line}" for line in text.splitlines()), ""]
            for name, args in _calls(message):
                lines += [f"Calls {_escape(name)}:", "", *(f"    {line}" for line in args.splitlines()), ""]
        return "\n".join([*lines, "---", "", ""])


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1f }
article { margin-bottom: 3rem } h2 { margin-bottom: 0 } .meta { color: #5c5c66; font-size: .85rem }
section { border-left: 3px solid #c9c9d2; margin: 1rem 0; padding: .1rem 0 .1rem 1rem; break-inside: avoid }
section.human { border-color: #2563eb } section.ai { border-color: #15803d }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; font: inherit }
details pre { font: 13px/1.4 ui-monospace, monospace }
@media (prefers-color-scheme: dark) { body { background: #16161a; color: #e6e6ea } .meta { color: #a5a5b0 } }
@media print { body { margin: 0; max-width: none } }
"""


class Html:
    """Writes conversations as one HTML page."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._assemble = Assembler()
        self._put(
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
            f"<title>Conversations</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Conversations</h1>\n"
        )

    def _put(self, text: str) -> None:
        self._out.write(text.encode("utf-8", "replace"))

    def write(self, part: Part) -> None:
        """Write the conversation that ends with the part."""
        if (conversation := self._assemble.take(part)) is not None:
            self._conversation(conversation)

    def close(self) -> None:
        """Close the page."""
        self._put("</body>\n</html>\n")

    def _conversation(self, conversation: Conversation) -> None:
        who = html.escape(conversation.session_id)
        if conversation.user_id:
            who += f", user {html.escape(conversation.user_id)}"
        self._put(
            f"<article>\n<h2>{html.escape(_title(conversation))}</h2>\n"
            f'<p class="meta">Session {who}, {conversation.created_at:%Y-%m-%d %H:%M %Z}</p>\n'
        )
        for stored in conversation.messages:
            self._message(stored)
        self._put("</article>\n")

    def _message(self, stored: StoredMessage) -> None:
        message: Any = stored.message
        kind = message.type if message.type in _NAMES else "other"
        self._put(f'<section class="{kind}"><p class="meta">{html.escape(_who(message))} · {_time(stored)}</p>\n')
        text = html.escape(_text(message))
        if isinstance(message, ToolMessage):
            self._put(f"<details><summary>Result</summary><pre>{text}</pre></details>\n")
        elif text:
            self._put(f"<pre>{text}</pre>\n")
        for name, args in _calls(message):
            self._put(
                f"<details><summary>Calls {html.escape(name)}</summary><pre>{html.escape(args)}</pre></details>\n"
            )
        self._put("</section>\n")
