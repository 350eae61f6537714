"""Drivers carry a `Call` to the database and bring its answer back: one for psycopg, one for the Data API."""
