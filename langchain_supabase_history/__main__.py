"""`python -m langchain_supabase_history` is the command `langchain-supabase-history`."""

from .commands.main import main

main(prog_name="langchain-supabase-history")
