"""A Streamlit run that is stopped in mid-stream: its turn is interrupted, with what the page has drawn."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from langchain_supabase_history import HistoryStore
from tests.operations.test_streams import Writer

pytest.importorskip("streamlit")

SCRIPT = """
import contextlib
import streamlit as st
from langchain_core.runnables import RunnableGenerator
from langchain_core.output_parsers import StrOutputParser
from pages_of_the_test import agent, amodel, model, seen, session, stage, store
from streamlit.runtime.scriptrunner import get_script_run_ctx

stage.requests = get_script_run_ctx().script_requests

bot = store.with_history(RunnableGenerator(model, amodel))
config = {"configurable": {"session_id": session}}
"""
WAYS = {
    "dropped": "st.write_stream(seen(bot.stream('go', config)))",
    "a variable": "stream = seen(bot.stream('go', config))\nst.write_stream(stream)",
    "session_state": "st.session_state['s'] = seen(bot.stream('go', config))\nst.write_stream(st.session_state['s'])",
    "closed": "with contextlib.closing(bot.stream('go', config)) as stream:\n    st.write_stream(seen(stream))",
    "a function": "def show():\n    stream = bot.stream('go', config)\n    st.write_stream(seen(stream))\nshow()",
    "a parser": "stream = (bot | StrOutputParser()).stream('go', config)\nst.write_stream(seen(stream))",
    "an agent": "stream = store.with_history(agent).stream('go', config, stream_mode='messages')\n"
    "st.write_stream(seen(chunk.text for chunk, _ in stream))",
    "async": "async def words():\n    async for word in bot.astream('go', config):\n"
    "        stage.look()\n        yield word\nst.write_stream(words())",
}
WORDS = [f"word{number}," for number in range(20)]


class Stage:
    """Runs a script as Streamlit does, and stops it at a chunk: while the model works, or before it is drawn."""

    requests: Any  # Streamlit's, once the script runs

    def __init__(self, store: HistoryStore, session: str, at: int, when: str) -> None:
        self.at, self.when, self.looked = at, when, 0
        self.held = threading.Event()
        self.module = types.ModuleType("pages_of_the_test")
        vars(self.module).update(store=store, session=session, model=self.model, amodel=self.amodel)
        vars(self.module).update(seen=self.seen, agent=self.agent(), stage=self)

    def words(self) -> Iterator[str]:
        for number, word in enumerate(WORDS):
            if number == self.at and self.when == "waiting":
                self.requests.request_stop()
            yield word

    def model(self, inputs: Iterator[list[BaseMessage]]) -> Iterator[str]:
        list(inputs)
        yield from self.words()

    async def amodel(self, inputs: AsyncIterator[list[BaseMessage]]) -> AsyncIterator[str]:
        _ = [part async for part in inputs]
        for word in self.words():
            yield word

    def seen(self, chunks: Iterator[str]) -> Iterator[str]:
        for chunk in chunks:
            self.look()
            yield chunk

    def look(self) -> None:
        """Between the stream and the page that draws it."""
        if self.looked == self.at and self.when == "drawing":
            self.requests.request_stop()
        self.looked += 1

    def agent(self) -> Any:
        from langchain.agents import create_agent
        from langchain_core.language_models import GenericFakeChatModel
        from langchain_core.messages import AIMessage, AIMessageChunk
        from langchain_core.outputs import ChatGenerationChunk

        stage = self

        class Model(GenericFakeChatModel):
            def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
                for word in stage.words():
                    yield ChatGenerationChunk(message=AIMessageChunk(content=word))
                    if word == WORDS[stage.at]:
                        stage.held.wait(5)  # a model that takes its time: the turn is recorded before it ends

        return create_agent(Model(messages=iter([AIMessage("")])), [])

    def run(self, way: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """Run the script to its end, and give what it has drawn."""
        from streamlit.testing.v1 import AppTest

        monkeypatch.setitem(sys.modules, "pages_of_the_test", self.module)
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # which the script takes the place of
        (folder / "page.py").write_text(SCRIPT + WAYS[way])
        app = AppTest.from_file(str(folder / "page.py"), default_timeout=60).run()
        self.held.set()
        assert not app.exception, app.exception
        return "".join(element.value for element in app.markdown)


def settle() -> None:
    """Wait for what closes streams behind runs that have ended."""
    for thread in threading.enumerate():
        if thread.name == "chat-history-page":
            thread.join(20)


@pytest.mark.parametrize("at", [0, 1, 7])
@pytest.mark.parametrize("when", ["waiting", "drawing"])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_stopped_interrupts_its_turn_with_what_was_drawn(
    postgres_store: HistoryStore,
    session: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    at: int,
    when: str,
) -> None:
    drawn = Stage(postgres_store, session, at, when).run(way, tmp_path, monkeypatch)
    settle()
    (turn,) = postgres_store.turns(session)
    assert turn.status == "interrupted"
    texts = [stored.message.text for stored in postgres_store.messages(session)]
    assert texts == (["go", drawn] if drawn else ["go"])
    if (way, when) != ("an agent", "waiting"):  # whose model runs ahead of its page
        assert drawn == "".join(WORDS[:at])


BROKEN_OFF = """
box, text = st.empty(), ""
stream = bot.stream("go", config)
for word in stream:
    text += word
    box.markdown(text)
    if len(text) > 20:
        break
stream.close()
"""


def test_a_script_that_breaks_off_by_itself_has_shown_the_last_chunk(
    postgres_store: HistoryStore, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WAYS, "broken off", BROKEN_OFF)
    drawn = Stage(postgres_store, session, len(WORDS), "never").run("broken off", tmp_path, monkeypatch)
    settle()
    (turn,) = postgres_store.turns(session)
    assert turn.status == "interrupted"
    assert [stored.message.text for stored in postgres_store.messages(session)] == ["go", drawn]
    assert drawn == "".join(WORDS[:4])


def test_a_page_that_follows_an_answer_is_stopped_while_nothing_comes(
    postgres_store: HistoryStore, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamlit.testing.v1 import AppTest

    Writer(postgres_store, session).write("so far")

    def stop(requests: Any) -> Any:
        return lambda delta: requests.request_stop()

    module = types.ModuleType("pages_of_the_test")
    vars(module).update(store=postgres_store, session=session, stop=stop)
    monkeypatch.setitem(sys.modules, "pages_of_the_test", module)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    (tmp_path / "page.py").write_text(
        "from pages_of_the_test import session, stop, store\n"
        "from streamlit.runtime.scriptrunner import get_script_run_ctx\n"
        "stopped = stop(get_script_run_ctx().script_requests)\n"
        "for delta in store.follow(session, interval=0.01):\n"
        "    stopped(delta)\n"  # and no command of Streamlit, which would look itself
    )
    app = AppTest.from_file(str(tmp_path / "page.py"), default_timeout=60).run()  # raises where it takes longer
    assert not app.exception, app.exception
    assert postgres_store.turns(session)[0].status == "running"
