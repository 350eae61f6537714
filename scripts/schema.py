"""Write `sql/schema.sql`, the schema as all migrations together leave it.

    python -m scripts.schema             # after a change of the migrations
    python -m scripts.schema --release   # with a release: freeze its migrations and the functions that it calls

The file is there to be read and compared: what the migrations say of one function may stand in several of them. A test
runs this and compares, another loads the file and compares the two databases' catalogues, a third compares what was
released (`tests/sql/released.json`) with what is there now.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess

import psycopg

from langchain_supabase_history import __version__, migrate
from langchain_supabase_history.migrations import migrations
from tests import servers

RELEASED = servers.ROOT / "tests" / "sql" / "released.json"
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


def signatures(conninfo: str) -> dict[str, list[list[object]]]:
    """The arguments of each function that is called by name: [name, type, whether it may be left out]."""
    with psycopg.connect(conninfo) as conn:
        rows = conn.execute(
            "select p.proname, p.proargnames[n], format_type(p.proargtypes[n - 1], null), "
            "n > pronargs - pronargdefaults from pg_proc p, generate_series(1, p.pronargs) n "
            "where p.proname like 'chat\\_history\\_%' and p.proargnames is not null order by 1, n"
        ).fetchall()
    found: dict[str, list[list[object]]] = {}
    for name, *argument in rows:
        found.setdefault(str(name), []).append(argument)
    return found


def release(server: servers.Postgres) -> str:
    """What the release that is being made promises for good, as JSON."""
    database = server.url(server.create_database())
    migrate(database)
    frozen = {
        "version": __version__,
        "migrations": {migration.name: migration.checksum for migration in migrations()},
        "functions": signatures(database),
    }
    return json.dumps(frozen, indent=1) + "\n"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", action="store_true", help="also freeze what is released")
    arguments = parser.parse_args()
    with servers.postgres(servers.postgres_bin()) as server:
        TARGET.write_text(current(server))
        if arguments.release:
            RELEASED.write_text(release(server))


if __name__ == "__main__":
    main()
