"""The blocks of a model's message as providers' packages give them: calls, reasoning, what servers do. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage

_CALLS: Final = {
    "tool_use",
    "tool_call",
    "invalid_tool_call",
    "function_call",
    "custom_tool_call",
    "computer_call",
    "local_shell_call",
    "shell_call",
    "apply_patch_call",
}
"""Calls that the application answers."""
_PIECES: Final = {"tool_call_chunk", "server_tool_call_chunk", "input_json_delta"}
"""What a stream leaves of a call where its pieces were not put together."""
_REASONING: Final = {"reasoning", "thinking", "redacted_thinking", "reasoning_content"}
_SERVER_CALLS: Final = {"server_tool_use", "server_tool_call", "mcp_tool_use"}
"""Calls that the provider answers, in a block of their own."""
_UNFINISHED: Final = {"in_progress", "incomplete", "searching", "interpreting", "generating"}
_SAID_ELSEWHERE: Final = {"function_call", "audio", "tool_outputs", "refusal"}
"""Fields of `additional_kwargs` in which an answer may be, beside an empty content."""


def _blocks(content: Any) -> Iterator[dict[str, Any]]:
    """The blocks of a content that are dictionaries; a provider's own as it is, which LangChain has wrapped."""
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            yield _inner(block)


def _inner(block: dict[str, Any]) -> dict[str, Any]:
    value = block.get("value")
    return value if block.get("type") == "non_standard" and isinstance(value, dict) else block


def _id_of(block: dict[str, Any]) -> str:
    return str(block.get("call_id") or block.get("id") or "")


def call_ids(message: AIMessage) -> list[str]:
    """The ids of the calls that the application is to answer, in order, wherever in the message they are."""
    found = [call["id"] or "" for call in (*message.tool_calls, *message.invalid_tool_calls)]
    elsewhere = [_id_of(block) for block in _blocks(message.content) if block.get("type") in _CALLS]
    elsewhere += [_id_of(call) for call in _raw(message, "tool_calls")]
    elsewhere += [_id_of(item) for item in _raw(message, "tool_outputs") if item.get("type") in _CALLS]
    return found + [id for id in dict.fromkeys(elsewhere) if id not in found]


def _raw(message: AIMessage, name: str) -> list[dict[str, Any]]:
    found = message.additional_kwargs.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def is_said(message: AIMessage) -> bool:
    """Whether the message says or calls something."""
    if call_ids(message) or not _SAID_ELSEWHERE.isdisjoint(message.additional_kwargs):
        return True
    if isinstance(message.content, str):
        return bool(message.content.strip())
    return any(_is_text(block) is not False for block in message.content)


def _is_text(block: Any) -> bool | None:
    """Whether a block has text; None where it is no block of text."""
    text = block if isinstance(block, str) else block.get("text", "") if block.get("type") == "text" else None
    return None if text is None else bool(str(text).strip())


class Servers:
    """The calls that providers' own servers have answered, in any message: a result may come with a later one."""

    def __init__(self, messages: Sequence[BaseMessage]) -> None:
        self._called: set[str] = set()
        self._answered: set[str] = set()
        for message in messages:
            for block in _blocks(message.content):
                if block.get("type") in _SERVER_CALLS:
                    self._called.add(_id_of(block))
                elif block.get("type") == "mcp_approval_response":
                    self._answered.add(str(block.get("approval_request_id")))
                elif (id := _answers(block)) in self._called:
                    self._answered.add(id)

    def keep(self, block: dict[str, Any], before: str, behind: str) -> bool:
        """Whether a block is no server's call without its result, and no result without its call."""
        kind = str(block.get("type"))
        if kind == "executable_code":
            return behind == "code_execution_result"
        if kind == "code_execution_result":
            return before == "executable_code"
        if kind in _SERVER_CALLS or kind == "mcp_approval_request":
            return _id_of(block) in self._answered
        answers = _answers(block)
        return not answers or answers in self._answered


def _answers(block: dict[str, Any]) -> str:
    """The id of the server's call whose result a block is; empty where it is none."""
    kind = str(block.get("type"))
    if kind == "server_tool_result":
        return str(block.get("tool_call_id"))
    return str(block.get("tool_use_id")) if kind.endswith("_tool_result") else ""


class _Answered:
    """Lets pass the calls that have a result, each as often as it has one."""

    def __init__(self, answered: Counter[str]) -> None:
        self._left = Counter(answered)

    def __call__(self, id: str | None) -> bool:
        self._left[id or ""] -= 1
        return self._left[id or ""] >= 0


def with_calls(message: AIMessage, answered: Counter[str], is_cut: bool, servers: Servers) -> AIMessage:
    """The message with the answered calls alone, in each of the places where providers' packages put calls, and without
    what is half made; itself where that changes nothing.

    Args:
        answered: The ids of the calls that have a result, and how often.
        is_cut: Whether there are others.
    """
    content = message.content
    if isinstance(content, list):
        kept = _content(content, answered, servers)
        content = content if len(kept) == len(content) else kept
    if not is_cut:
        return message if content is message.content else message.model_copy(update={"content": content})
    keep = _Answered(answered)
    return message.model_copy(
        update={
            "content": content,
            "tool_calls": [call for call in message.tool_calls if keep(call["id"])],
            "invalid_tool_calls": [call for call in message.invalid_tool_calls if keep(call["id"])],
            "additional_kwargs": _extra(message, answered),
        }
    )


def _extra(message: AIMessage, answered: Counter[str]) -> dict[str, Any]:
    """The providers' own fields without what is there of calls that have no result."""
    dropped = set(call_ids(message)) - answered.keys()
    of_calls = ("tool_calls", "tool_outputs", "function_call")
    extra = {name: value for name, value in message.additional_kwargs.items() if name not in of_calls}
    for name, value in extra.items():  # signatures, say, or the provider's own ids: for each call one
        if isinstance(value, dict) and not dropped.isdisjoint(value):
            extra[name] = {id: part for id, part in value.items() if id not in dropped}
    for name in ("tool_calls", "tool_outputs"):
        keep = _Answered(answered)
        is_call = [name == "tool_calls" or item.get("type") in _CALLS for item in _raw(message, name)]
        items = [
            item for item, calls in zip(_raw(message, name), is_call, strict=True) if not calls or keep(_id_of(item))
        ]
        if items:
            extra[name] = items
    return extra


def _content(content: Iterable[Any], answered: Counter[str], servers: Servers) -> list[Any]:
    """The blocks that are whole and lead to something: reasoning stays with what follows it."""
    blocks = list(content)
    kinds = ["", *(str(_inner(b).get("type")) if isinstance(b, dict) else "text" for b in blocks), ""]
    keep = _Answered(answered)
    kept: list[Any] = []
    reasoning: list[Any] = []  # whose follower has not come yet
    is_lost = False  # what followed it was left out
    for block, before, kind, behind in zip(blocks, kinds, kinds[1:], kinds[2:], strict=False):
        if kind in _REASONING:
            reasoning = [block] if is_lost else [*reasoning, block]
            is_lost = False
        elif _is_text(block) is False and not (block if isinstance(block, str) else block.get("text")):
            continue
        elif isinstance(block, str) or _stays(_inner(block), before, behind, keep, servers):
            kept += [*reasoning, block]
            reasoning, is_lost = [], False
        else:
            is_lost = True
    calls_follow = bool(answered) and _CALLS.isdisjoint(kinds)  # beside the content, behind which they are sent
    return [*kept, *reasoning] if calls_follow and not is_lost else kept


def _stays(block: dict[str, Any], before: str, behind: str, keep: _Answered, servers: Servers) -> bool:
    kind = str(block.get("type"))
    if kind in _PIECES or (kind.endswith("_call") and block.get("status") in _UNFINISHED and kind not in _CALLS):
        return False
    return keep(_id_of(block)) if kind in _CALLS else servers.keep(block, before, behind)
