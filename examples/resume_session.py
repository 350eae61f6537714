"""The classic chain, with LangChain's RunnableWithMessageHistory: it forgets nothing when its program ends.

Runs without keys or accounts, on an embedded PostgreSQL in a temporary folder. Give it a folder of your own, run it
again, and it resumes where it ended:

    pip install 'langchain_supabase_history[local]'
    python examples/resume_session.py [folder]
"""

import atexit
import shutil
import sys
import tempfile
import warnings

from langchain_core.messages import AIMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_supabase_history import HistoryStore

# LangChain will remove this class in 2.0 and says so each time; with_history.py shows what does not need it.
warnings.filterwarnings("ignore", message="RunnableWithMessageHistory is deprecated")


def scripted(prompt: PromptValue) -> AIMessage:
    """Stands for a chat model: it knows only what it is shown."""
    names = [m.text.removeprefix("I am ") for m in prompt.to_messages() if m.text.startswith("I am ")]
    return AIMessage(f"You are {names[-1]}." if names else "I do not know you.")


prompt = ChatPromptTemplate.from_messages(
    [("system", "You are brief."), MessagesPlaceholder("history"), ("human", "{question}")]
)


def talk(folder: str, *questions: str) -> None:
    """Open the store, ask the questions, and close it, as a program does that is started and ends."""
    with HistoryStore.local(folder) as store:
        print(f"The session holds {len(store.load('visitor'))} messages.")
        bot = RunnableWithMessageHistory(
            prompt | RunnableLambda(scripted),
            store.get_session_history,
            input_messages_key="question",
            history_messages_key="history",
        )
        for question in questions:
            answer = bot.invoke({"question": question}, {"configurable": {"session_id": "visitor"}})
            print(f"  human: {question}\n  ai:    {answer.text}")


folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
if len(sys.argv) == 1:
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # at the end, when the server in it has stopped

talk(f"{folder}/postgres", "Who am I?", "I am Ada")
talk(f"{folder}/postgres", "Who am I?")  # nothing of the first talk is left in memory here
