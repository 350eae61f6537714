"""Titles of conversations, written by a model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypedDict

import orjson
from langchain_core.messages import BaseMessage, HumanMessage

from ..core.arguments import check_id, check_text
from ..core.call import Blocking, Call, Json, Plan
from ..core.rows import read_session
from ..core.values import made_plain
from ..errors import InvalidInput, NotFound
from ..operations.messages import list_messages
from ..operations.scope import Scope
from ..operations.sessions import UPDATE_SESSION, get_session
from ..records import Session

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

INSTRUCTION: Final = (
    "Write a title for this conversation, of at most six words, in its language. Answer with the title alone."
)
_READ: Final = 10  # messages: a title is about how a conversation begins
_LONGEST: Final = 100  # characters


class TitleOptions(TypedDict, total=False):
    """The options of `title_with`; see there."""

    instruction: str | None


def title_with(
    scope: Scope, runnable: Runnable[Any, Any], session_id: str, *, instruction: str | None = INSTRUCTION
) -> Plan[Session]:
    """See `LangChain.title_with`."""
    check_id(session_id)
    if not callable(getattr(type(runnable), "invoke", None)):
        raise InvalidInput(f"runnable must be a chat model or another Runnable, got {type(runnable).__name__}.")
    if instruction is not None:
        check_text(instruction, "instruction", 10_000)
    page = yield from list_messages(scope, session_id, limit=_READ)
    messages = [stored.message for stored in page if stored.message.type in ("human", "ai") and stored.message.text]
    if not messages:
        raise NotFound(f"The session {session_id[:100]!r} holds no text that a title could be about.")
    given = messages if instruction is None else [*messages, HumanMessage(instruction)]
    title = _title((yield Blocking(partial(runnable.invoke, given))))
    if not title:
        return (yield from get_session(scope, session_id))
    args = {
        "session_id": session_id,
        "changes": Json(orjson.dumps({"default_title": title})),
        "user_id": scope.user_id,
    }
    session: Session = yield Call(UPDATE_SESSION, args, read_session)
    return session


def _title(answer: Any) -> str:
    text = answer.text if isinstance(answer, BaseMessage) else answer if isinstance(answer, str) else ""
    line = " ".join(made_plain(str(text)).split()).strip("\"'`*#“”„«» ").strip()
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1].rstrip() + "…"
