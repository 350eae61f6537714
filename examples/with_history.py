"""Stream answers with memory, stop one half-way, and see what was kept of it.

Runs without keys or accounts, on an embedded PostgreSQL in a temporary folder:

    pip install 'langchain_supabase_history[local]'
    python examples/with_history.py
"""

import atexit
import shutil
import tempfile
from collections.abc import Iterator

from langchain_core.messages import BaseMessage
from langchain_core.runnables import chain

from langchain_supabase_history import HistoryStore, RunnableWithHistory


@chain
def model(messages: list[BaseMessage]) -> Iterator[str]:
    """Stands for a chat model: it repeats, word by word, all that the human has said so far."""
    said = "; ".join(message.text for message in messages if message.type == "human")
    for word in f"You said: {said}.".split():
        yield word + " "


def ask(bot: RunnableWithHistory, question: str, stop_after: int | None = None) -> None:
    """Print an answer as it comes; with `stop_after`, hang up after so many words."""
    print(f"human: {question}\nai:    ", end="")
    words = bot.stream(question, {"configurable": {"session_id": "walk"}})
    for count, word in enumerate(words, start=1):
        print(word, end="", flush=True)
        if count == stop_after:
            print("- stopped", end="")
            break
    words.close()  # type: ignore[attr-defined]  # a generator; closing it ends the turn as interrupted
    print()


folder = tempfile.mkdtemp()
atexit.register(shutil.rmtree, folder, ignore_errors=True)  # at the end, when the server in it has stopped

with HistoryStore.local(f"{folder}/postgres") as store:
    bot = store.with_history(model)
    ask(bot, "the trees are bare")
    ask(bot, "the lake is frozen", stop_after=4)

print("\nThe store was closed. Another one, on the same folder, resumes:")
with HistoryStore.local(f"{folder}/postgres") as store:
    ask(store.with_history(model), "and it snows")

    print("\nThe turns as they are stored:")
    for turn in store.turns("walk"):
        print(f"  {turn.ordinal}. {turn.status}")
