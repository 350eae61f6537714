"""Appends that wait in a file while the database is away."""
