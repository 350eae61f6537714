"""The command `langchain-supabase-history`."""
