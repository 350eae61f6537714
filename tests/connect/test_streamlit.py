"""The connection for Streamlit: where it finds the database, and that it is closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage

from langchain_supabase_history import NotConfigured, NotInstalled
from tests import servers

st = pytest.importorskip("streamlit")
NAMES = ("SUPABASE_DB_URL", "SUPABASE_URL", "SUPABASE_KEY")


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a connection with these secrets, as an app in a folder of its own does."""
    from streamlit.config import get_option, set_option

    from langchain_supabase_history.streamlit import HistoryConnection

    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(type(st.secrets), "_maybe_install_file_watchers", lambda _: None)  # its thread would never end
    before = get_option("secrets.files")
    set_option("secrets.files", [str(tmp_path / "secrets.toml")])
    made = []

    def make(toml: str, **options: Any) -> HistoryConnection:
        (tmp_path / "secrets.toml").write_text(toml)
        made.append(HistoryConnection("supabase_history", **options))
        return made[-1]

    st.secrets._reset()
    yield make
    for connection in made:
        connection.close()
    st.secrets._reset()
    set_option("secrets.files", before)


@pytest.mark.parametrize(
    "toml",
    [
        'SUPABASE_DB_URL = "{}"',
        '[connections.supabase_history]\nSUPABASE_DB_URL = "{}"',
        '[connections.supabase_history]\ndb_url = "{}"',
        '[connections.supabase]\ndb_url = "{}"',
        'SUPABASE_DB_URL = "postgresql://nobody@127.0.0.1:1/x"\n[connections.supabase_history]\ndb_url = "{}"',
    ],
)
def test_the_database_is_found_in_each_place(connect: Any, database: str, toml: str) -> None:
    connection = connect(toml.format(database), deadline=5)
    connection.store.for_user("ada").append("s", [HumanMessage("hello")])
    assert [message.text for message in connection.store.for_user("ada").load("s")] == ["hello"]


@pytest.mark.parametrize("names", [("SUPABASE_URL", "SUPABASE_KEY"), ("url", "key")])
@pytest.mark.parametrize("section", ["", "[connections.supabase]\n", "[connections.supabase_history]\n"])
def test_a_project_and_its_key_are_found_too(
    connect: Any, data_api: servers.Lite, names: tuple[str, str], section: str, session: str
) -> None:
    toml = f'{section}{names[0]} = "{data_api.url}"\n{names[1]} = "{servers.SECRET_KEY}"\n'
    if section or names[0] != "url":
        assert list(connect(toml).store.load(session)) == []
    else:  # at the root they are nobody's names
        with pytest.raises(NotConfigured):
            connect(toml)


def test_nothing_configured_says_what_to_set(connect: Any) -> None:
    with pytest.raises(NotConfigured, match="SUPABASE_DB_URL"):
        connect("")


def test_released_or_reset_it_is_closed_and_used_again_it_opens(connect: Any, database: str) -> None:
    connection = connect(f'SUPABASE_DB_URL = "{database}"')
    first = connection.store
    first.load("s")
    connection.reset()
    assert first.pool_stats() == {}
    assert connection.store is not first
    connection.store.load("s")
    connection.close()
    assert connection.store.pool_stats() == {}


def test_options_are_the_stores(connect: Any, database: str) -> None:
    connection = connect(f'SUPABASE_DB_URL = "{database}"', schema="elsewhere")
    with pytest.raises(NotInstalled):
        connection.store.load("s")


def test_of_a_stream_only_the_text_is_drawn_and_it_is_closed() -> None:
    from langchain_supabase_history.streamlit import text_chunks

    closed = []

    def stream() -> Any:
        call: Any = {"name": "add", "args": "{}", "id": "c1", "index": 0}
        try:
            yield "plain "
            yield AIMessageChunk(content="")
            yield AIMessageChunk(content="", tool_call_chunks=[call])
            yield ToolMessage("3", tool_call_id="c1")
            yield AIMessageChunk(content=[{"type": "text", "text": "block ", "index": 0}])
            yield AIMessageChunk(content=[{"type": "reasoning", "reasoning": "hm", "index": 0}])
            yield (AIMessageChunk(content="pair "), {"langgraph_node": "model"})
            yield (ToolMessage("4", tool_call_id="c1"), {"langgraph_node": "tools"})
            yield AIMessage("whole")
            yield {"messages": []}
        finally:
            closed.append(True)

    assert list(text_chunks(stream())) == ["plain ", "block ", "pair ", "whole"]
    assert list(text_chunks(["a", "b"])) == ["a", "b"]
    cut = text_chunks(stream())
    next(iter(cut))
    del cut
    assert closed == [True, True]
