"""Which of a turn's model runs its answer came from, odd usage, and what a `TurnAudit` holds in memory."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_supabase_history import HistoryStore, TurnAudit
from langchain_supabase_history.core.observed import usage_fields
from tests.langsmith_server import LangSmithServer, flush, smith_fixture  # noqa: F401
from tests.metered import DOCUMENTS, KEYS, PARSED, TWO_MODELS, Metered, Shelf
from tests.shapes import MODES, PROMPT, config_of, reply, run

modes = pytest.mark.parametrize("mode", MODES)


class Named(Metered):
    """Says its own name in front, so that its answer is like no other model's."""

    def _generate(self, messages: list[Any], *args: Any, **kwargs: Any) -> ChatResult:
        usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
        message = AIMessage(
            f"{self.model}: {reply(messages)}", usage_metadata=usage, response_metadata={"model_name": self.model}
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    disable_streaming: bool | Any = True


SMALL = PROMPT | Metered(model="small") | StrOutputParser()
BIG = PROMPT | Named(model="big") | StrOutputParser()


def first_then(chain: Runnable[Any, Any], other: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """Both at once, the other beginning last."""

    def later(given: Any) -> Any:
        time.sleep(0.05)
        return given

    async def alater(given: Any) -> Any:
        await asyncio.sleep(0.05)
        return given

    return RunnableParallel(answer=chain, title=RunnableLambda(later, alater) | other)


@modes
@pytest.mark.parametrize("audited", [True, False], ids=["audited", "traced"])
def test_an_answer_has_the_usage_of_the_model_that_gave_it(
    store: HistoryStore, session: str, smith: LangSmithServer, mode: str, audited: bool
) -> None:
    both = first_then(BIG, SMALL)
    keys: dict[str, Any] = {**KEYS, "output_messages_key": "answer"}
    chain: Any
    if audited:
        chain = store.with_history(both, **keys)
    else:
        chain = RunnableWithMessageHistory(both, store.get_session_history, **keys)
    run(chain, mode, {"input": "q"}, config_of(session))
    (_, answer), (turn,) = store.load(session), store.turns(session)
    assert isinstance(answer, AIMessage)
    assert answer.content == "big: you said: q"
    assert answer.response_metadata["model_name"] == "big"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 110
    assert turn.model == "big"
    assert turn.total_tokens == 110 + 13
    flush(smith)


@pytest.mark.parametrize(
    "chain",
    [TWO_MODELS, PARSED | (lambda answer: answer + "!")],
    ids=["two that said the same", "none that said it"],
)
def test_an_answer_has_no_usage_where_it_is_not_certain_whose(
    store: HistoryStore, session: str, chain: Runnable[Any, Any]
) -> None:
    store.with_history(chain, **KEYS).invoke({"input": "q"}, config_of(session))
    (_, answer), (turn,) = store.load(session), store.turns(session)
    assert isinstance(answer, AIMessage)
    assert (answer.usage_metadata, answer.response_metadata) == (None, {})
    assert turn.model == "metered-1"  # of several, the last
    assert turn.total_tokens


class Odd(Metered):
    """Tells a usage that cannot be right, as models of one's own do."""

    told: Any

    def _generate(self, messages: list[Any], *args: Any, **kwargs: Any) -> ChatResult:
        message = AIMessage("answer").model_copy(update=self.told)
        return ChatResult(generations=[ChatGeneration(message=message)])

    disable_streaming: bool | Any = True


def told(**usage: Any) -> dict[str, Any]:
    return {"usage_metadata": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, **usage}}


@pytest.mark.parametrize(
    ("odd", "total", "details"),
    [
        (told(total_tokens=-1), None, None),
        (told(total_tokens=True), None, None),
        (told(total_tokens=3.0), None, None),
        (told(total_tokens=2**63), None, None),
        (told(output_token_details={"reasoning": -1, "audio": 1, "cache": True}), 3, {"audio": 1}),
        (told(output_token_details=[1]), 3, None),
        ({"usage_metadata": "three"}, None, None),
        ({**told(), "response_metadata": {"model_name": 3, "raw": object()}}, 3, None),
    ],
)
@pytest.mark.parametrize("audited", [True, False], ids=["audited", "traced"])
def test_odd_usage_never_costs_a_turn(
    store: HistoryStore, session: str, smith: LangSmithServer, audited: bool, odd: Any, total: Any, details: Any
) -> None:
    chain = PROMPT | Odd(told=odd) | StrOutputParser()
    wrapped: Any
    if audited:
        wrapped = store.with_history(chain, **KEYS)
    else:
        wrapped = RunnableWithMessageHistory(chain, store.get_session_history, **KEYS)
    wrapped.invoke({"input": "q"}, config_of(session))
    (turn,) = store.turns(session)
    assert [message.text for message in store.load(session)] == ["q", "answer"]
    assert (turn.status, turn.total_tokens) == ("completed", total)
    assert (turn.token_details or {}).get("output_token_details") == details
    flush(smith)


def test_many_large_counts_never_cost_a_turn(store: HistoryStore, session: str) -> None:
    one = PROMPT | Odd(told=told(total_tokens=2**53 - 1)) | StrOutputParser()
    chain = RunnableParallel(answer=one, other=one, third=one)
    store.with_history(chain, **KEYS, output_messages_key="answer").invoke({"input": "q"}, config_of(session))
    (turn,) = store.turns(session)
    assert (turn.status, turn.input_tokens, turn.total_tokens) == ("completed", 3, 2**53 - 1)


def finding(audit: TurnAudit) -> Runnable[Any, Any]:
    return RunnableLambda(lambda given: given) | Shelf().with_config(callbacks=[audit])


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_below_the_outermost_run_holds_what_is_under_way(mode: str) -> None:
    audit = TurnAudit()
    for _ in range(3):
        run(finding(audit), mode, "the Po", {})
    assert not audit._roots
    assert not audit._root_of
    assert audit.last is not None
    assert [document["id"] for document in audit.last.documents] == [document.id for document in DOCUMENTS[:1]] + ["7"]


def test_a_turn_knows_all_that_was_done_one_after_the_other(store: HistoryStore, session: str) -> None:
    class Twice(Runnable[Any, Any]):
        """Runs two models, without a run of its own around them."""

        def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
            return SMALL.invoke(input, config) + BIG.invoke(input, config)

    store.with_history(Twice(), **KEYS).invoke({"input": "q"}, config_of(session))
    (turn,) = store.turns(session)
    assert turn.metadata["model_runs"] == 2
    assert turn.total_tokens == 110 + 13


def test_odd_usage_of_messages_never_costs_a_turn() -> None:
    for odd in (told(total_tokens=-3), {"usage_metadata": "three"}, {"response_metadata": {"model": 3}}):
        assert "total_tokens" not in usage_fields([AIMessage("a").model_copy(update=odd)])
