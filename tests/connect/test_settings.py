"""Where a store takes its settings from: the application's clients, and Streamlit's secrets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from supabase import Client, ClientOptions, create_client

from langchain_supabase_history import HistoryStore, NotConfigured
from langchain_supabase_history.connect.environment import find_missing
from langchain_supabase_history.doctor.environment import environment


def client(schema: str) -> Client:
    return create_client("https://x.supabase.co", "sb_secret_x", ClientOptions(schema=schema))


def test_the_schema_of_the_client_is_used() -> None:
    assert HistoryStore.from_client(client("chat")).driver.schema == "chat"
    assert HistoryStore.from_client(client("public")).driver.schema == "public"
    assert HistoryStore.from_client(client("public"), schema="chat").driver.schema == "chat"
    assert HistoryStore.from_client(client("chat"), schema="chat").driver.schema == "chat"


@pytest.mark.parametrize(
    ("clients", "options"),
    [
        ((client("chat"),), {"schema": "other"}),
        ((client("chat"),), {"schema": "public"}),
        ((client("chat"), client("other")), {}),
        ((client("chat"), client("public")), {}),
    ],
)
def test_schemas_that_differ_are_refused(clients: tuple[Client, ...], options: dict[str, Any]) -> None:
    with pytest.raises(NotConfigured, match=r"chat.*ClientOptions"):
        HistoryStore.from_client(*clients, **options)


ANY: Any = HistoryStore  # whose options no type checker looks at
SECTIONS = {
    "connections.supabase": '[connections.supabase]\nSUPABASE_URL = "https://hunter2.co"\nSUPABASE_KEY = "hunter2"\n',
    "supabase": '[supabase]\nurl = "https://hunter2.co"\nkey = "hunter2"\n',
    "database": '[database]\nSUPABASE_DB_URL = "postgresql://hunter2"\n',
}


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("where", ["application", "user"])
def test_a_section_of_streamlits_secrets_is_named(
    section: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SUPABASE_DB_URL", "SUPABASE_URL", "SUPABASE_KEY"):
        monkeypatch.delenv(name, raising=False)
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        (folder / ".streamlit").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    file = (here if where == "application" else home) / ".streamlit" / "secrets.toml"
    file.write_text(f'other = "x"\n[theme]\nbase = "dark"\n{SECTIONS[section]}')
    with pytest.raises(NotConfigured, match=rf"\[{section}\].*in front of any") as caught:
        HistoryStore.from_env()
    assert "hunter2" not in str(caught.value)
    (finding,) = environment({}, {})
    assert (finding.status, f"[{section}]" in finding.says) == ("fault", True)


def test_secrets_are_looked_at_only_where_something_is_missing() -> None:
    secrets = {"connections": {"supabase": {"SUPABASE_KEY": "x"}}}
    assert find_missing({"SUPABASE_DB_URL": "x"}, {}, secrets) is None
    missing = find_missing({"SUPABASE_URL": "x"}, {}, secrets)
    assert missing is not None
    assert "SUPABASE_KEY is not" in missing.says
    assert "connections.supabase" in missing.says
    unrelated = find_missing({}, {}, {"theme": {"base": "dark"}, "connections": {"snowflake": {"url": "x"}}})
    assert unrelated is not None
    assert "[" not in unrelated.says


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ANY.from_env(pool_sise=3), "from_env has no option 'pool_sise'. Did you mean pool_size?"),
        (lambda: ANY.from_supabase("https://x.supabase.co", "k", jwt_secret="s"), "no option 'jwt_secret'"),
        (lambda: ANY.from_client(object(), timeout=3), "no option 'timeout'. It has: count_tokens, deadline"),
        (lambda: ANY.from_postgres("postgresql://h", Schema="x"), "Did you mean schema?"),
        (lambda: ANY.from_pool(object(), pool_size=3), "from_pool has no option 'pool_size'"),
        (lambda: ANY.local("/nowhere", conninfo="x"), "local has no option 'conninfo'"),
    ],
)
def test_an_option_that_is_none_is_named(make: Callable[[], object], says: str) -> None:
    with pytest.raises(NotConfigured) as caught:
        make()
    assert says in str(caught.value)


def test_what_is_for_psycopg_alone_is_not_used_over_the_data_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPABASE_DB_URL", raising=False)
    monkeypatch.setenv("SUPABASE_URL", "https://abcdefghijklmnopqrst.supabase.co")
    monkeypatch.setenv("SUPABASE_KEY", "sb_secret_" + "a" * 30)
    with HistoryStore.from_env(jwt_secret="s" * 32, jwks_url=None, audience=None, pool_size=2) as store:
        assert store.driver.transport == "data-api"
