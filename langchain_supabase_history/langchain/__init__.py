"""LangChain: a session as a chat history, and memory around a runnable."""
