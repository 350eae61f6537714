"""How many tokens a message has, where nobody has counted them: an estimate. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

MEDIA_TOKENS: Final = 500
"""The price of a picture, a recording, a film or a file, whatever its size. Providers ask 85 to 1,600 for a picture."""

_BYTES_PER_TOKEN: Final = 4
"""A rule of thumb for English. Other scripts take more bytes, so the bytes are counted, not the characters."""
_FRAME: Final = 4  # what is sent around each message
_MEDIA: Final = {
    "image",
    "image_url",
    "input_image",
    "image_generation_call",
    "audio",
    "audio_url",
    "input_audio",
    "video",
    "video_url",
    "file",
    "input_file",
    "document",
    "media",
    "computer_screenshot",
}
_TEXT_SOURCES: Final = {"text", "content"}


def estimated_tokens(data: Mapping[str, Any]) -> int:
    """An estimate for what a provider is sent of a message: its content and its calls.

    Args:
        data: The message as it is stored.
    """
    content, media = _without_media(data.get("content", ""))
    size = len(content.encode()) if isinstance(content, str) else len(orjson.dumps(content))
    if data.get("tool_calls"):
        size += len(orjson.dumps(data["tool_calls"]))
    return size // _BYTES_PER_TOKEN + _FRAME + media * MEDIA_TOKENS


def _without_media(content: Any) -> tuple[Any, int]:
    """A content without its media, and how many there are: in blocks, and in blocks within these (a tool's result)."""
    if not isinstance(content, (list, dict)):
        return content, 0
    if isinstance(content, dict):
        if _is_media(content):
            return None, 1
        found = {name: _without_media(part) for name, part in content.items()}
        return {name: part for name, (part, _) in found.items()}, sum(count for _, count in found.values())
    parts = [_without_media(part) for part in content]
    return [part for part, _ in parts], sum(count for _, count in parts)


def _is_media(block: dict[str, Any]) -> bool:
    if isinstance(block.get("base64"), str):
        return True
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") in _TEXT_SOURCES:
        return False
    if isinstance(block.get("inline_data"), dict) or (isinstance(source, dict) and "bytes" in source):
        return True  # as Gemini's API and Bedrock's have them, without a type
    return block.get("type") in _MEDIA and not isinstance(block.get("text"), str)
