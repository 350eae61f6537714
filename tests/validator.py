"""What OpenAI, Anthropic and Gemini publish about the messages that they accept, as rules over LangChain's messages.

A list that breaks a rule is refused with an HTTP 400, on this turn and on every later one, because the history stays.
The rules share no code with the library, whose results they judge. Each names its source: a page of the provider's
documentation, or the words with which its API refuses.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

OPENAI, ANTHROPIC, GEMINI = "OpenAI", "Anthropic", "Gemini"
EVERYONE = (OPENAI, ANTHROPIC, GEMINI)

_CALLS = {"tool_use", "tool_call", "function_call", "custom_tool_call", "computer_call", "local_shell_call"}
_REASONING = {"reasoning", "thinking", "redacted_thinking", "reasoning_content"}
_SERVER_CALLS = {"server_tool_use", "server_tool_call", "mcp_tool_use"}
_UNFINISHED = {"in_progress", "incomplete", "searching", "interpreting", "generating"}
_PIECES = {"tool_call_chunk", "server_tool_call_chunk", "input_json_delta"}

Messages = Sequence[BaseMessage]
Check = Callable[[Messages], Iterator[str]]


@dataclass(frozen=True)
class Rule:
    """A rule: who has it, where it is published, and what finds the places that break it."""

    name: str
    providers: tuple[str, ...]
    source: str
    check: Check


RULES: list[Rule] = []


def rule(providers: Iterable[str], source: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        RULES.append(Rule(check.__name__, tuple(providers), source, check))
        return check

    return register


def complaints(messages: Messages, providers: Iterable[str] = EVERYONE, but: Iterable[str] = ()) -> list[str]:
    """What of the messages which provider refuses; none where all accept them.

    Args:
        but: Names of rules that are not asked, where the input itself breaks them.
    """
    asked = [rule for rule in RULES if rule.name not in but and set(rule.providers) & set(providers)]
    return [f"{rule.name} ({', '.join(rule.providers)}): {fault}" for rule in asked for fault in rule.check(messages)]


def assert_accepted(messages: Messages, providers: Iterable[str] = EVERYONE, but: Iterable[str] = ()) -> None:
    """All providers accept the messages, with a new question behind them."""
    found = complaints([*messages, HumanMessage("And now?")], providers, but)
    assert not found, "\n".join([*found, *(f"  {n}: {message!r}" for n, message in enumerate(messages))])


# --- a message's parts


def blocks(message: BaseMessage) -> list[dict[str, Any]]:
    """The content as blocks; those of a provider that LangChain has wrapped as they are."""
    content = [message.content] if isinstance(message.content, str) else message.content
    found: list[Any] = [{"type": "text", "text": block} if isinstance(block, str) else block for block in content]
    return [block["value"] if block.get("type") == "non_standard" else block for block in found]


def calls(message: BaseMessage) -> list[str]:
    """The ids of the calls that the application is to answer, wherever in the message they are."""
    if not isinstance(message, AIMessage):
        return []
    found = [call["id"] or "" for call in (*message.tool_calls, *message.invalid_tool_calls)]
    raw = [call.get("id") or "" for call in message.additional_kwargs.get("tool_calls", ())]
    raw += [block.get("call_id") or block.get("id") or "" for block in blocks(message) if block.get("type") in _CALLS]
    return found + [id for id in dict.fromkeys(raw) if id not in found]


def items(message: BaseMessage) -> list[str]:
    """The types of what is sent of a message, in order: its blocks, and its calls behind them where they are none."""
    kinds = [str(block.get("type")) for block in blocks(message) if block.get("type") != "text" or block.get("text")]
    return kinds if _CALLS.intersection(kinds) else kinds + ["call" for _ in calls(message)]


def is_blank(message: BaseMessage) -> bool:
    return not any(block.get("type") != "text" or str(block.get("text", "")).strip() for block in blocks(message))


def spoken(messages: Messages) -> Messages:
    return [message for message in messages if not isinstance(message, SystemMessage)]


def exchanges(messages: Messages) -> Iterator[tuple[BaseMessage | None, list[ToolMessage]]]:
    """Each message that is no result of a tool, with the results directly behind it."""
    front: BaseMessage | None = None
    results: list[ToolMessage] = []
    for message in messages:
        if isinstance(message, ToolMessage):
            results.append(message)
            continue
        if front is not None or results:
            yield front, results
        front, results = message, []
    yield front, results


# --- tools

OPENAI_TOOLS = "https://platform.openai.com/docs/guides/function-calling"
ANTHROPIC_TOOLS = "https://docs.claude.com/en/docs/agents-and-tools/tool-use/implement-tool-use"
GEMINI_TOOLS = "https://ai.google.dev/gemini-api/docs/function-calling"


@rule(
    EVERYONE,
    f"{OPENAI_TOOLS} ('must be followed by tool messages responding to each tool_call_id'), "
    f"{ANTHROPIC_TOOLS} ('tool_use ids were found without tool_result blocks immediately after'), "
    f"{GEMINI_TOOLS} ('the number of function response parts is equal to the number of function call parts')",
)
def every_call_is_answered_right_behind_it(messages: Messages) -> Iterator[str]:
    for front, results in exchanges(messages):
        called = Counter(calls(front)) if front is not None else Counter[str]()
        for id in called - Counter(result.tool_call_id for result in results):
            yield f"the call {id!r} has no result"


@rule(
    EVERYONE,
    f"{OPENAI_TOOLS} (\"messages with role 'tool' must be a response to a preceding message with 'tool_calls'\"), "
    f"{ANTHROPIC_TOOLS} ('unexpected tool_use_id found in tool_result blocks'), {GEMINI_TOOLS}",
)
def every_result_has_its_call(messages: Messages) -> Iterator[str]:
    for front, results in exchanges(messages):
        called = Counter(calls(front)) if front is not None else Counter[str]()
        for id in Counter(result.tool_call_id for result in results) - called:
            yield f"a result for {id!r}, which nothing in front of it has called, or only once"


@rule([ANTHROPIC], f"{ANTHROPIC_TOOLS} ('tool_use ids must be unique')")
def call_ids_are_unique(messages: Messages) -> Iterator[str]:
    counted = Counter(id for message in messages for id in calls(message))
    yield from (f"{count} calls with the id {id!r}" for id, count in counted.items() if count > 1)


@rule([OPENAI], f"{OPENAI_TOOLS} (each result names one call)")
def call_ids_of_a_message_are_unique(messages: Messages) -> Iterator[str]:
    for message in messages:
        yield from (
            f"{n} calls with the id {id!r} in one message" for id, n in Counter(calls(message)).items() if n > 1
        )


@rule([OPENAI, ANTHROPIC], f"{ANTHROPIC_TOOLS} (an id matches '^[a-zA-Z0-9_-]+$'); Gemini pairs by order")
def every_call_has_an_id(messages: Messages) -> Iterator[str]:
    yield from ("a call without an id" for message in messages for id in calls(message) if not id)


@rule(
    [GEMINI],
    f"{GEMINI_TOOLS} ('function call turn comes immediately after a user turn or after a function response turn')",
)
def a_call_follows_a_question_or_a_result(messages: Messages) -> Iterator[str]:
    for before, message in itertools.pairwise([None, *spoken(messages)]):
        if message is not None and calls(message) and not isinstance(before, (HumanMessage, ToolMessage)):
            yield f"a call behind {before.type if before else 'nothing'}"


# --- whose turn it is, and what may be empty

ANTHROPIC_MESSAGES = "https://docs.claude.com/en/api/messages"
GEMINI_CONTENT = "https://ai.google.dev/api/caching#Content"


@rule(
    [ANTHROPIC, GEMINI],
    f"{ANTHROPIC_MESSAGES} (the first message is the user's), {GEMINI_TOOLS} (a call follows a user's turn)",
)
def the_first_message_is_the_users(messages: Messages) -> Iterator[str]:
    first = next(iter(spoken(messages)), None)
    if first is not None and not isinstance(first, HumanMessage):
        yield f"the first message is of type {first.type}"


@rule(
    [ANTHROPIC, GEMINI],
    f"{ANTHROPIC_MESSAGES} ('system' is a parameter beside the messages: langchain-anthropic refuses 'multiple "
    f"non-consecutive system messages'), {GEMINI_CONTENT} (the roles are 'user' and 'model')",
)
def system_messages_are_in_front(messages: Messages) -> Iterator[str]:
    in_front = list(itertools.takewhile(lambda message: isinstance(message, SystemMessage), messages))
    for index, message in enumerate(messages[len(in_front) :], len(in_front)):
        if isinstance(message, SystemMessage):
            yield f"a system message at place {index}"


@rule(
    [ANTHROPIC, GEMINI],
    f"{ANTHROPIC_MESSAGES} ('all messages must have non-empty content except for the optional final assistant "
    f"message'), {GEMINI_CONTENT} ('contents.parts must not be empty')",
)
def every_message_says_something(messages: Messages) -> Iterator[str]:
    for index, message in enumerate(messages):
        if not isinstance(message, ToolMessage) and is_blank(message) and not calls(message):
            yield f"the {message.type} message at place {index} is empty"


@rule([ANTHROPIC], f"{ANTHROPIC_MESSAGES} ('text content blocks must be non-empty')")
def no_text_block_is_empty(messages: Messages) -> Iterator[str]:
    for index, message in enumerate(messages):
        if isinstance(message.content, list) and any(
            b.get("type") == "text" and not b["text"] for b in blocks(message)
        ):
            yield f"an empty block of text at place {index}"


# --- reasoning, and what the provider's own servers do

ANTHROPIC_THINKING = "https://docs.claude.com/en/docs/build-with-claude/extended-thinking"


@rule(
    [OPENAI, ANTHROPIC],
    "https://platform.openai.com/docs/guides/reasoning ('of type reasoning was provided without its required following "
    f"item'), {ANTHROPIC_THINKING} ('The final block in an assistant message cannot be thinking')",
)
def reasoning_is_followed_by_what_it_led_to(messages: Messages) -> Iterator[str]:
    for index, message in enumerate(messages):
        kinds = items(message)
        if kinds and kinds[-1] in _REASONING:
            yield f"{kinds[-1]} is the last of the message at place {index}"


@rule([ANTHROPIC], f"{ANTHROPIC_THINKING} (thinking is sent back with its signature, redacted thinking with its data)")
def thinking_is_whole(messages: Messages) -> Iterator[str]:
    for message in messages:
        for block in blocks(message):
            kind = block.get("type")
            if kind == "thinking" and isinstance(block.get("thinking"), str) and not block.get("signature"):
                yield f"thinking without a signature: {block}"
            if kind == "redacted_thinking" and not block.get("data"):
                yield f"redacted thinking without data: {block}"


def _result_of(block: dict[str, Any]) -> str | None:
    """The id of the server's call whose result a block is."""
    kind = str(block.get("type"))
    if kind == "server_tool_result":
        return str(block.get("tool_call_id"))
    return str(block.get("tool_use_id")) if kind.endswith("_tool_result") else None


@rule(
    [ANTHROPIC],
    "https://docs.claude.com/en/docs/agents-and-tools/tool-use/web-search-tool ('was found without a corresponding "
    "web_search_tool_result block')",
)
def every_call_of_a_server_has_its_result(messages: Messages) -> Iterator[str]:
    results = {_result_of(block) for message in messages for block in blocks(message)}
    for message in messages:
        for block in blocks(message):
            if block.get("type") in _SERVER_CALLS and block.get("id") not in results:
                yield f"no result of {block}"


@rule([ANTHROPIC], "as above ('must have a corresponding server_tool_use block before')")
def every_result_of_a_server_has_its_call(messages: Messages) -> Iterator[str]:
    called: set[Any] = set()
    for message in messages:
        for block in blocks(message):
            if block.get("type") in _SERVER_CALLS:
                called.add(block.get("id"))
            if (id := _result_of(block)) is not None and id not in called:
                yield f"no call for {block}"


@rule([GEMINI], "https://ai.google.dev/gemini-api/docs/code-execution (code, then what running it gave)")
def code_is_followed_by_its_result(messages: Messages) -> Iterator[str]:
    for message in messages:
        for kind, following in itertools.pairwise([*(block.get("type") for block in blocks(message)), None]):
            if kind == "executable_code" and following != "code_execution_result":
                yield f"executable code is followed by {following}"


@rule(
    [OPENAI],
    "https://platform.openai.com/docs/guides/tools-connectors-mcp ('approval requests do not have an approval')",
)
def every_request_for_approval_is_decided(messages: Messages) -> Iterator[str]:
    found = [block for message in messages for block in blocks(message)]
    decided = {b.get("approval_request_id") for b in found if b.get("type") == "mcp_approval_response"}
    asked = (b.get("id") for b in found if b.get("type") == "mcp_approval_request")
    yield from (f"nobody has decided about {id}" for id in asked if id not in decided)


@rule(EVERYONE, "the schemas of the requests: a call's arguments are an object, an item is completed")
def no_block_is_half_made(messages: Messages) -> Iterator[str]:
    for message in messages:
        for block in blocks(message):
            kind = str(block.get("type"))
            if kind in _PIECES:
                yield f"a piece of a call: {block}"
            if kind in {"tool_use", *_SERVER_CALLS} and "id" not in block:
                yield f"a call without an id: {block}"
            if kind.endswith("_call") and block.get("status") in _UNFINISHED:
                yield f"a call that was not finished: {block}"
