"""Hypothesis strategies: what agents leave behind, as providers stream it, cut at any chunk."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
)

Step = list[AIMessageChunk] | ToolMessage
STYLES = ("text", "anthropic", "openai", "gemini")


def chunk(block: dict[str, Any] | str, **more: Any) -> AIMessageChunk:
    return AIMessageChunk(content=block if isinstance(block, str) else [block], **more)


def pieces(index: int, id: str | None, args: str, name: str | None = "f") -> list[Any]:
    return [{"name": name, "args": args, "id": id, "index": index}]


def anthropic(ids: list[str], text: str, *, thinks: bool, searches: bool) -> list[AIMessageChunk]:
    """As langchain-anthropic streams: each block with an index, thinking signed at its end, arguments in pieces."""
    found: list[AIMessageChunk] = []
    if thinks:
        found += [
            chunk({"type": "thinking", "thinking": "Hm", "index": 0}),
            chunk({"type": "thinking", "thinking": "m.", "index": 0}),
            chunk({"type": "thinking", "signature": "c2ln", "index": 0}),
        ]
    if searches:
        call = {
            "type": "server_tool_use",
            "id": f"s-{text}-{'-'.join(ids)}",
            "name": "web_search",
            "input": {},
            "index": 1,
        }
        found += [
            chunk(call),
            chunk({"type": "input_json_delta", "partial_json": '{"query": "x"}', "index": 1}),
            chunk({"type": "web_search_tool_result", "tool_use_id": call["id"], "content": [], "index": 2}),
        ]
    found += [chunk({"type": "text", "text": word, "index": 3}) for word in text.split(" ") if text]
    for index, id in enumerate(ids, 4):
        use = {"type": "tool_use", "id": id, "name": "f", "input": {}, "index": index}
        found.append(chunk(use, tool_call_chunks=pieces(index, id, "")))
        for args in ('{"n"', ": 1}"):
            delta = {"type": "input_json_delta", "partial_json": args, "index": index}
            found.append(chunk(delta, tool_call_chunks=pieces(index, None, args, None)))
    return found


def openai(ids: list[str], text: str, *, thinks: bool, searches: bool) -> list[AIMessageChunk]:
    """As langchain-openai streams the Responses API's items."""
    found: list[AIMessageChunk] = []
    if thinks:
        found.append(chunk({"type": "reasoning", "id": f"rs_{text}", "summary": [], "index": 0}))
    if searches:
        found.append(chunk({"type": "web_search_call", "id": "ws_1", "status": "completed", "index": 1}))
    found += [chunk({"type": "text", "text": word, "index": 2}) for word in text.split(" ") if text]
    for index, id in enumerate(ids, 4):
        if thinks and index > 4:
            found.append(chunk({"type": "reasoning", "id": f"rs_{id}", "summary": [], "index": 10 * index}))
        call = {"type": "function_call", "id": f"fc_{id}", "call_id": id, "name": "f", "arguments": "", "index": index}
        found.append(chunk(call, tool_call_chunks=pieces(index, id, "")))
        more = {"type": "function_call", "arguments": '{"n": 1}', "index": index}
        found.append(chunk(more, tool_call_chunks=pieces(index, None, '{"n": 1}', None)))
    return found


def plain(ids: list[str], text: str, *, thinks: bool, searches: bool) -> list[AIMessageChunk]:
    """As OpenAI's chat completions stream."""
    found = [chunk(word + " ") for word in text.split(" ") if text]
    for index, id in enumerate(ids):
        found += [
            chunk("", tool_call_chunks=pieces(index, id, "")),
            chunk("", tool_call_chunks=pieces(index, None, '{"n": 1}', None)),
        ]
    return found or [chunk("")]


def gemini(ids: list[str], text: str, *, thinks: bool, searches: bool) -> list[AIMessageChunk]:
    """As langchain-google-genai streams: whole calls, code and what running it gave."""
    found: list[AIMessageChunk] = []
    if searches:
        found += [
            chunk({"type": "executable_code", "executable_code": "1", "language": 1, "index": 0}),
            chunk({"type": "code_execution_result", "code_execution_result": "1", "outcome": 1, "index": 1}),
        ]
    found += [chunk({"type": "text", "text": word, "index": 2}) for word in text.split(" ") if text]
    return [*found, *(chunk("", tool_call_chunks=pieces(n, id, '{"n": 1}')) for n, id in enumerate(ids))] or [chunk("")]


STREAMED = {"text": plain, "anthropic": anthropic, "openai": openai, "gemini": gemini}


def whole(chunks: list[AIMessageChunk]) -> BaseMessage:
    return message_chunk_to_message(chunks[0] + chunks[1:] if len(chunks) > 1 else chunks[0])


def messages_of(steps: list[Step]) -> list[BaseMessage]:
    return [step if isinstance(step, ToolMessage) else whole(step) for step in steps]


@st.composite
def transcripts(draw: st.DrawFn, *, cuts: bool = True, systems: bool = True) -> list[tuple[str, list[BaseMessage]]]:
    """Turns of an agent: their status and messages.

    Args:
        cuts: Whether turns may be cut: at any chunk, or between the results of parallel calls.
        systems: Whether questions may come with instructions.
    """
    number = iter(range(10_000))
    style = draw(st.sampled_from(STYLES))
    turns: list[tuple[str, list[BaseMessage]]] = []
    for _ in range(draw(st.integers(1, 4))):
        question: list[BaseMessage] = [HumanMessage(f"h{next(number)}")]
        if systems and draw(st.booleans()):
            question.insert(0, SystemMessage(draw(st.sampled_from(["Be brief.", "Be kind."]))))
        steps: list[Step] = []
        for _ in range(draw(st.integers(0, 4))):
            ids = [f"c{next(number)}" for _ in range(draw(st.integers(1, 3)))]
            said = draw(st.sampled_from(["", "I look it up"]))
            steps.append(_said(draw, style, ids, said))
            steps += [ToolMessage(f"t{id}", tool_call_id=id) for id in draw(st.permutations(ids))]
        steps.append(_said(draw, style, [], f"answer {next(number)}"))
        status = "completed"
        if cuts and draw(st.booleans()):
            status = "interrupted"
            at = draw(st.integers(0, len(steps)))
            last = steps[at : at + 1]
            steps = steps[:at]
            if last and isinstance(last[0], list):
                count = draw(st.integers(0, len(last[0])))
                steps += [last[0][:count]] if count else []
        turns.append((status, [*question, *messages_of(steps)]))
    return turns


def _said(draw: st.DrawFn, style: str, ids: list[str], text: str) -> list[AIMessageChunk]:
    return STREAMED[style](ids, text, thinks=draw(st.booleans()), searches=draw(st.booleans()))
