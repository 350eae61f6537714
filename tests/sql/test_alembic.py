"""Alembic's autogenerate leaves our tables alone, by the function that the documentation gives."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests import servers


def test_autogenerate_leaves_our_tables_alone(database: str) -> None:
    page = (servers.ROOT / "docs" / "observability.md").read_text()
    found = re.search(r"^def include_name.*?\n\n", page, re.DOTALL | re.MULTILINE)
    assert found
    names: dict[str, Any] = {}
    exec(found[0], names)
    engine = sa.create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sa.text("create table mine (id integer primary key)"))
        for options, dropped in (({}, True), ({"include_name": names["include_name"]}, False)):
            changes = compare_metadata(MigrationContext.configure(connection, opts=options), sa.MetaData())
            tables = {change[1].name for change in changes if change[0] == "remove_table"}
            assert "mine" in tables
            assert any(name.startswith("chat_history_") for name in tables) is dropped
    engine.dispose()
