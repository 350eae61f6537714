"""Write `sql/schema.sql`, the schema as all migrations together leave it: `python -m scripts.schema`.

It is there to be read and compared: what the migrations say of one function may stand in several of them. A test runs
this and compares, and another loads the file and compares the two databases' catalogues.
"""

from __future__ import annotations

import re
import subprocess

from langchain_supabase_history import migrate
from tests import servers

TARGET = servers.ROOT / "langchain_supabase_history" / "sql" / "schema.sql"
HEADER = """\
-- The schema as all migrations together leave it: made by `python -m scripts.schema`, to be read. The migrations beside
-- this file install it, say why, and grant the rights, which depend on the roles that a database has.

"""


def current(server: servers.Postgres) -> str:
    """The schema of a database that was migrated just now on this server, as SQL."""
    database = server.create_database()
    migrate(server.url(database))
    dumped = subprocess.run(
        [
            server.bin / "pg_dump",
            "--schema-only",
            "--no-owner",
            "--no-privileges",
            "--schema=public",
            server.url(database),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    kept = [
        line
        for line in dumped.splitlines()
        if not re.match(r"--|\\|SET |SELECT pg_catalog|CREATE SCHEMA|COMMENT ON SCHEMA", line)
    ]
    return HEADER + re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"


def main() -> None:
    """Write the file."""
    with servers.postgres(servers.postgres_bin()) as server:
        TARGET.write_text(current(server))


if __name__ == "__main__":
    main()
