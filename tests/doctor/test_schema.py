"""What the doctor says of the schema: missing, older, newer, another's."""

from __future__ import annotations

from langchain_supabase_history.doctor.diagnose import Finding
from langchain_supabase_history.migrations import migrations
from tests import servers
from tests.conftest import missing
from tests.doctor.helpers import LATEST, complaints, examine, execute, fix, only, sound


def test_nothing_is_installed(empty_database: str) -> None:
    finding = only(examine(db_url=empty_database))
    assert finding == Finding(
        "schema", "fault", "Nothing is installed in schema public.", "langchain-supabase-history migrate"
    )
    fix(empty_database, finding)
    sound(examine(db_url=empty_database))


def test_what_is_missing_in_another_schema(empty_database: str, data_api: servers.Lite) -> None:
    finding = only(examine(db_url=empty_database, schema="nix"))
    assert finding.says == "Nothing is installed in schema nix."
    assert finding.fix == "langchain-supabase-history migrate --schema nix"
    fix(empty_database, finding)
    execute(empty_database, f"delete from nix.chat_history_migrations where version = {LATEST}")
    assert complaints(examine(db_url=empty_database, schema="nix"))[0].fix == finding.fix


def test_an_older_schema(empty_database: str) -> None:
    execute(empty_database, migrations()[0].statement())
    found = examine(db_url=empty_database)
    finding = complaints(found)[0]
    assert finding.name == "schema"
    assert "older than this release" in finding.says
    assert f"of {LATEST} is missing" in finding.says
    fix(empty_database, finding)
    sound(examine(db_url=empty_database))


def test_a_newer_schema(database: str) -> None:
    execute(database, "insert into chat_history_migrations (version, name, checksum) values (9999, 'later', 'x')")
    found = examine(db_url=database)
    assert not complaints(found)
    assert "version 9999) is newer than this release" in only(found, "warning").says
    assert "pip install --upgrade" in only(found, "warning").fix


def test_a_ledger_of_another_release(database: str) -> None:
    execute(database, "update chat_history_migrations set checksum = 'other' where version = 1")
    finding = only(examine(db_url=database))
    assert "Migration 1 was applied in another form" in finding.says
    assert "another schema" in finding.fix


def test_tables_of_others(empty_database: str) -> None:
    execute(empty_database, "create table chat_history_messages (id bigint primary key, body text)")
    finding = only(examine(db_url=empty_database))
    assert "tables of our names" in finding.says
    assert "Rename them" in finding.fix


def test_a_stale_schema_cache(pg: servers.Postgres) -> None:
    if not servers.LITE_CLI.exists():
        missing("@supabase/lite", servers.LITE_INSTALL)
    url = pg.url(pg.create_database())
    with servers.lite(url) as api:
        finding = only(examine(url=api.url, key=servers.SECRET_KEY))
        assert finding.name == "schema"
        assert "does not know this library's functions" in finding.says
        assert "langchain-supabase-history migrate" in finding.fix
        fix(url, finding)
        finding = only(examine(url=api.url, key=servers.SECRET_KEY))  # this server reads its cache at start alone
        assert "schema cache is stale" in finding.says
        assert "notify pgrst, 'reload schema'" in finding.fix


def test_a_schema_that_the_data_api_does_not_serve(data_api: servers.Lite) -> None:
    finding = only(examine(url=data_api.url, key=servers.SECRET_KEY, schema="private"))
    assert "does not serve this schema" in finding.says
    assert "Exposed schemas" in finding.fix
