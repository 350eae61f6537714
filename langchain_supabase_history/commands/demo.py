"""`langchain-supabase-history demo`: a conversation that outlives the process that holds it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableLambda

from ..errors import HistoryError
from ..store import HistoryStore

BEFORE = ["My name is Ada.", "I live in Turin."]
CUT = "Tell me a long story."
AFTER = ["What is my name, and where do I live?"]


def run(path: Path | None = None) -> int:
    """Run the demo, with the database in `path` (by default a temporary folder). Gives the exit status."""
    if path is None:
        with tempfile.TemporaryDirectory(prefix="langchain-supabase-history-", ignore_cleanup_errors=True) as temporary:
            return run(Path(temporary) / "postgres")
    session = f"demo-{os.getpid()}"
    _say(f"An embedded PostgreSQL in {path} keeps session {session!r}. The model is {_model_name()}.\n")

    _say("A first process talks ...")
    with _child(path, session, [*BEFORE, CUT]) as first:
        if CUT not in _relay(first, until=CUT):
            return 1  # it has said on stderr what went wrong
        first.kill()  # SIGKILL, in the middle of the third turn: nothing can be tidied up
    _say(f"... and is killed (process {first.pid}, SIGKILL).\n")

    _say("A second process resumes it:")
    with _child(path, session, AFTER, report=True) as second:
        resumed = _relay(second)
    if second.returncode != 0:
        return 1
    if not ("Ada" in resumed and "Turin" in resumed):
        _say("\nThe conversation was not resumed; this is a defect, please report it.")
        return 1
    _say("\nThe conversation was resumed with its memory intact.")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _child(folder: Path, session: str, questions: Sequence[str], report: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__, str(folder), session, str(int(report)), *questions]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603


def _relay(process: subprocess.Popen[str], until: str = "\0") -> str:
    """Print what a process prints, up to the line that contains `until`, and give it back."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
        if until in line:
            break
    return "".join(lines)


def _talk(folder: str, session: str, report: str, *questions: str) -> None:
    with HistoryStore.local(folder) as store:
        prompt = ChatPromptTemplate.from_messages(
            [("system", "You are brief."), MessagesPlaceholder("history"), ("human", "{question}")]
        )
        chain = store.with_history(prompt | _model(), input_messages_key="question", history_messages_key="history")
        config: Any = {"configurable": {"session_id": session}}
        if report == "1":
            print(f"  (process {os.getpid()} finds {len(store.load(session))} messages)")
        for question in questions:
            print(f"  human: {question}", flush=True)
            print(f"  ai:    {chain.invoke({'question': question}, config).text}", flush=True)
        if report == "1":
            found = store.session(session)
            print(f"  ({found.message_count} messages are stored now, in {len(store.turns(session))} turns)")


def _model_name() -> str:
    for key, package in (("OPENAI_API_KEY", "langchain_openai"), ("ANTHROPIC_API_KEY", "langchain_anthropic")):
        if os.environ.get(key) and find_spec(package):
            return package
    return "scripted"


def _model() -> Runnable[Any, Any]:
    name = _model_name()
    if name == "langchain_openai":
        from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

        return ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-5-mini"))  # type: ignore[no-any-return]
    if name == "langchain_anthropic":
        from langchain_anthropic import ChatAnthropic  # type: ignore[import-not-found]

        return ChatAnthropic(model=os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"))  # type: ignore[no-any-return]
    return RunnableLambda(_scripted)


def _scripted(prompt: Any) -> AIMessage:
    """A model that knows nothing but what it is shown: it answers from the human messages before it."""
    messages: list[BaseMessage] = prompt.to_messages()
    said = " ".join(m.text for m in messages if m.type == "human")
    if messages[-1].text == CUT:
        time.sleep(60)  # a model that is still thinking when its process is killed
    if "?" not in messages[-1].text:
        return AIMessage("I will remember that.")
    name, place = re.search(r"name is (\w+)", said), re.search(r"live in (\w+)", said)
    if not (name and place):
        return AIMessage("I do not know: nobody told me.")
    return AIMessage(f"Your name is {name[1]}, and you live in {place[1]}.")


def main() -> None:
    """Talk as one of the demo's processes."""
    try:
        _talk(*sys.argv[1:])
    except HistoryError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
