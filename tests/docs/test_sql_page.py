"""The page about the schema, against a database's catalogue."""

from __future__ import annotations

import re

import psycopg

from tests import servers

PAGE = (servers.ROOT / "docs" / "sql.md").read_text()


def sections() -> dict[str, dict[str, str]]:
    """What the page says of tables and views: columns and their types."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^### ", PAGE.partition("\n## Functions")[0], flags=re.MULTILINE)[1:]:
        name = part.split("`")[1]
        found[name] = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \| [^|]+ \|$", part, re.MULTILINE))
    return found


def test_every_table_view_and_column_is_on_the_page(database: str) -> None:
    with psycopg.connect(database) as conn:
        rows = conn.execute(
            "select c.relname, a.attname, format_type(a.atttypid, a.atttypmod) from pg_class c join pg_attribute a "
            "on a.attrelid = c.oid where c.relname like 'chat\\_history\\_%' and c.relkind in ('r', 'v', 'p') "
            "and a.attnum > 0 and not a.attisdropped order by 1, a.attnum"
        ).fetchall()
    catalogue: dict[str, dict[str, str]] = {}
    for relation, column, kind in rows:
        catalogue.setdefault(relation, {})[column] = kind.replace("timestamp with time zone", "timestamptz")
    assert sections() == catalogue


def test_every_function_is_on_the_page(database: str) -> None:
    with psycopg.connect(database) as conn:
        rows = conn.execute(
            "select proname, coalesce(proargnames[1:pronargs], '{}'), pronargs from pg_proc "
            "where proname like 'chat\\_history\\_%'"
        ).fetchall()
    callable_, _, parts = PAGE.partition("\n## Functions")[2].partition("These are parts of others")
    described = dict(re.findall(r"^- `(\w+)\(([^)]*)\)`: \S", callable_, re.MULTILINE))
    assert described == {name: ", ".join(names) for name, names, count in rows if names or not count}
    assert set(re.findall(r"`(chat_history_\w+)`", parts)) == {
        name for name, names, count in rows if not names and count
    }
