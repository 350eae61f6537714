"""LangSmith: feedback, links and costs; conversations restored from its runs, and its runs exported."""
