"""A chat model that tells its usage, and chains around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from tests.shapes import PROMPT, reply


class Metered(BaseChatModel):
    """Repeats what humans said; a word is a token, and a tenth of what it is shown was in a cache."""

    model: str = "metered-1"

    def _usage(self, messages: list[BaseMessage]) -> Any:
        shown, said = 10 * len(messages), len(reply(messages).split())
        return {
            "input_tokens": shown,
            "output_tokens": said,
            "total_tokens": shown + said,
            "input_token_details": {"cache_read": len(messages)},
            "output_token_details": {"reasoning": 1},
        }

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        message = AIMessage(
            reply(messages), usage_metadata=self._usage(messages), response_metadata={"model_name": self.model}
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        run_manager = kwargs.get("run_manager") or next((a for a in args if hasattr(a, "on_llm_new_token")), None)
        for word in re.split(r"(?<= )", reply(messages)):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word))
            if run_manager:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
        last = AIMessageChunk(
            content="", usage_metadata=self._usage(messages), response_metadata={"model_name": self.model}
        )
        yield ChatGenerationChunk(message=last)

    @property
    def _llm_type(self) -> str:
        return "metered"


class Shelf(BaseRetriever):
    """Finds documents whose text has the question's last word in it."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        word = query.split()[-1].strip("?").lower()
        return [document for document in DOCUMENTS if word in document.page_content.lower().split()]


DOCUMENTS = [
    Document(
        "Turin lies where the Po is young. " + "It is old. " * 60,
        id="d1",
        metadata={"source": "turin.md", "score": 0.75},
    ),
    Document("The Po is 652 km long.", metadata={"source": "po.md", "relevance_score": 0.5, "id": 7}),
    Document("Bologna has porticoes.", id="d3", metadata={}),
]

PLAIN: Runnable[Any, Any] = PROMPT | Metered()
PARSED: Runnable[Any, Any] = PROMPT | Metered() | StrOutputParser()
# A first model rephrases the question, a second answers it: two model runs a turn, and a string comes out.
TWO_MODELS: Runnable[Any, Any] = (
    RunnablePassthrough.assign(rephrased=PROMPT | Metered(model="metered-0") | StrOutputParser())
    | RunnableLambda(lambda given: {"history": given["history"], "input": given["input"]})
    | PROMPT
    | Metered()
    | StrOutputParser()
)
RETRIEVING: Runnable[Any, Any] = (
    RunnablePassthrough.assign(found=RunnableLambda(lambda given: given["input"]) | Shelf())
    | RunnableLambda(lambda given: {"history": given["history"], "input": given["input"]})
    | PROMPT
    | Metered()
    | StrOutputParser()
)
KEYS: dict[str, Any] = {"input_messages_key": "input", "history_messages_key": "history"}
