"""Exports of ChatGPT: a conversation is a tree of messages; the branch that ends at `current_node` is what it shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from .building import Found, FoundBranch, FoundConversation, read_time


def read_chatgpt(value: dict[str, Any], where: str) -> FoundConversation:
    """A conversation of `conversations.json`; the other branches are its alternatives."""
    nodes: dict[str, Any] = value["mapping"]
    path: list[str] = []
    node_id = value.get("current_node") or max(_leaves(nodes), key=lambda n: _node_time(nodes[n]), default=None)
    while node_id is not None and len(path) <= len(nodes):
        path.append(node_id)
        node_id = nodes[node_id].get("parent")
    tree = _Tree(nodes)
    return FoundConversation(
        source="chatgpt",
        session_id=str(value.get("conversation_id") or value.get("id") or f"chatgpt-{where}"),
        title=value.get("title") or None,
        messages=tree.take(path[::-1], None),
        branches=list(tree.branches()),
        created_at=read_time(value.get("create_time")),
        updated_at=read_time(value.get("update_time")),
    )


def _leaves(nodes: dict[str, Any]) -> list[str]:
    return [node_id for node_id, node in nodes.items() if not node.get("children")]


def _node_time(node: dict[str, Any]) -> float:
    return (node.get("message") or {}).get("create_time") or 0.0


class _Tree:
    """The messages of a tree: one path of it is the conversation, the other branches are its alternatives."""

    def __init__(self, nodes: dict[str, Any]) -> None:
        self._nodes = nodes
        self._seen: set[str] = set()
        self._open: deque[tuple[str, str | None]] = deque()  # a node off the path, and the key of what it follows

    def take(self, path: Sequence[str], follows: str | None) -> list[Found]:
        """The messages on a path; its side branches are left for `branches`."""
        found: list[Found] = []
        self._seen.update(path)
        for node_id in path:
            item = _message(self._nodes[node_id])
            if item is not None:
                found.append(item)
                follows = item.key
            for child in self._nodes[node_id].get("children") or ():
                if child not in self._seen:
                    self._open.append((child, follows))
        return found

    def branches(self) -> Iterator[FoundBranch]:
        """The side branches, each behind what it follows."""
        while self._open:
            node_id, follows = self._open.popleft()
            if node_id in self._seen:
                continue
            path = [node_id]
            while (children := self._nodes[path[-1]].get("children")) and len(path) <= len(self._nodes):
                path.append(children[-1])
            if found := self.take(path, follows):
                yield FoundBranch(follows, found)


def _message(node: dict[str, Any]) -> Found | None:
    said = node.get("message")
    if not said or (said.get("metadata") or {}).get("is_visually_hidden_from_conversation"):
        return None
    text = _text(said.get("content") or {})
    if not text:
        return None
    role = said["author"]["role"]
    model = (said.get("metadata") or {}).get("model_slug")
    message: BaseMessage
    if role == "user":
        message = HumanMessage(text)
    elif role == "assistant":
        message = AIMessage(text, response_metadata={"model_name": model} if model else {})
    elif role == "system":
        message = SystemMessage(text)
    else:  # a tool's output; its call is no message of its own in these exports
        message = AIMessage(text, name=said["author"].get("name"))
    return Found(message, key=str(said["id"]), created_at=read_time(said.get("create_time")))


def _text(content: dict[str, Any]) -> str:
    parts = content.get("parts")
    if parts is None:
        return str(content.get("text") or content.get("result") or "")
    texts = [part if isinstance(part, str) else f"[{part.get('content_type', 'content')}]" for part in parts if part]
    return "\n".join(texts)
