"""Pure: nothing here talks to a database, a service or a file."""
