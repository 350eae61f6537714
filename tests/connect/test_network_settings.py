"""Network settings of the environment that cannot be used: named by every operation and by the doctor, never raw."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from langchain_core.messages import HumanMessage
from supabase import AsyncClient, Client

from langchain_supabase_history import HistoryStore, NotConfigured
from langchain_supabase_history.doctor.diagnose import diagnose
from tests import servers
from tests.doctor.helpers import complaints, examine, only

URL, KEY = "https://abcdefghijklmnopqrst.supabase.co", "sb_secret_" + "x" * 30
SETTINGS = [
    ("ALL_PROXY", "socks://127.0.0.1:7890/"),
    ("ALL_PROXY", "socks5://127.0.0.1:7890/"),
    ("all_proxy", "socks5://user:hunter2@127.0.0.1:7890/"),
    ("HTTPS_PROXY", "nonsense://x"),
    ("https_proxy", "http://127.0.0.1:port"),
    ("HTTP_PROXY", "http://[::1"),
    ("NO_PROXY", "[::1]"),
    ("no_proxy", "localhost,::1,[::1]"),
    ("SSL_CERT_FILE", "/nowhere/ca.pem"),
    ("SSL_CERT_FILE", __file__),
    ("SSLKEYLOGFILE", "/nowhere/keys"),
]


@contextlib.contextmanager
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    yield


def own_client() -> HistoryStore:
    return HistoryStore.from_client(Client(URL, KEY), deadline=1)


def own_async_client() -> HistoryStore:
    return HistoryStore.from_client(async_client=AsyncClient(URL, KEY), deadline=1)


def over_the_data_api() -> HistoryStore:
    return HistoryStore.from_supabase(URL, KEY, deadline=1)


@pytest.mark.parametrize("make", [over_the_data_api, own_client, own_async_client])
@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_settings_that_cannot_be_used_are_named(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], HistoryStore], name: str, value: str
) -> None:
    with no_proxies(monkeypatch):
        store = make()  # before the setting is made: what an application sets late, say
        monkeypatch.setenv(name, value)
        if make is not own_async_client:
            for do in (lambda: store.load("x"), lambda: store.append("x", HumanMessage("q")), store.sessions):
                with pytest.raises(NotConfigured, match=name) as caught:
                    do()
                assert "hunter2" not in str(caught.value)
        with pytest.raises(NotConfigured, match=name):
            asyncio.run(store.aload("x"))
        found = examine(store)
        store.close()
    if make is not own_async_client:
        assert name in " ".join(finding.says for finding in complaints(found))


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_the_doctor_finds_them(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with no_proxies(monkeypatch):
        monkeypatch.setenv("HTTP_PROXY" if name.upper() != "HTTP_PROXY" else "HTTPS_PROXY", "http://127.0.0.1:8080")
        monkeypatch.setenv(name, value)
        finding = only(examine(url=URL, key=KEY))
    assert finding.name == "network"
    assert name in finding.says
    assert "127.0.0.1:8080" not in finding.says
    assert finding.says.count("_PROXY") <= (1 if "proxy" in name.lower() else 0)  # the sound one is not accused


def test_an_outbox_keeps_nothing_where_the_settings_are_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with no_proxies(monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
        with HistoryStore.from_supabase(URL, KEY, outbox=tmp_path / "outbox") as store:
            with pytest.raises(NotConfigured, match="SSL_CERT_FILE"):
                store.append("x", HumanMessage("q"))
            assert store.waiting() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "http://127.0.0.1:{port}"),
        ("all_proxy", "127.0.0.1:{port}"),
        ("https_proxy", "http://p.invalid:1"),
    ],
)
def test_a_proxy_that_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with no_proxies(monkeypatch):
        monkeypatch.setenv(name, value.format(port=servers.free_port()))
        finding = only(examine(url=URL, key=KEY, deadline=1))
    assert finding.name == "network"
    assert f"The proxy that {name} names" in finding.says


def test_a_proxy_that_is_not_used_is_not_blamed(monkeypatch: pytest.MonkeyPatch, data_api: servers.Lite) -> None:
    with no_proxies(monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{servers.free_port()}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        port = servers.free_port()
        assert only(examine(url=f"http://127.0.0.1:{port}", key=KEY)).says == f"Nothing listens at 127.0.0.1:{port}."
        assert not complaints(examine(url=data_api.url, key=servers.SECRET_KEY))


def test_keys_that_cannot_be_fetched_because_of_a_setting(
    monkeypatch: pytest.MonkeyPatch, shared_database: str
) -> None:
    token = jwt.encode({"sub": "u"}, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": "k"})
    with (
        no_proxies(monkeypatch),
        HistoryStore.from_postgres(shared_database, jwks_url=f"{URL}/auth/v1/jwks.json", deadline=1) as store,
    ):
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:port")
        with pytest.raises(NotConfigured, match="HTTPS_PROXY"):
            store.as_user(token).load("x")
        with pytest.raises(NotConfigured, match="HTTPS_PROXY"):
            asyncio.run(store.as_user(token).aload("x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTPS_PROXY", "nonsense://x"), ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem"), ("ALL_PROXY", "socks5://127.0.0.1:1")],
)
def test_langsmith_is_asked_through_the_same_settings(
    monkeypatch: pytest.MonkeyPatch, shared_database: str, name: str, value: str
) -> None:
    with no_proxies(monkeypatch), warnings.catch_warnings():
        monkeypatch.setenv("LANGSMITH_API_KEY", "x")
        monkeypatch.setenv(name, value)
        with HistoryStore.from_postgres(shared_database) as store, pytest.raises(NotConfigured, match=name):
            store.langsmith.project_id("x")


# --- never raises


def broken(*args: Any, **kwargs: Any) -> Any:
    raise ZeroDivisionError("a fault of its own")


def test_diagnose_never_raises(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    monkeypatch.setattr("langchain_supabase_history.doctor.diagnose.conninfo_to_dict", broken)
    found = diagnose(db_url=database, environ={})
    assert [finding.name for finding in complaints(found)] == ["network"]
    assert "ZeroDivisionError" in complaints(found)[0].says
    assert {"schema", "round trip"} <= {finding.name for finding in found if finding.status == "ok"}
    for odd in (3, b"x", object()):
        assert complaints(diagnose(db_url=odd, environ={}))  # type: ignore[arg-type]
        assert complaints(diagnose(url=odd, key=odd, environ={}))  # type: ignore[arg-type]


def test_diagnose_in_a_folder_that_was_removed(monkeypatch: pytest.MonkeyPatch, database: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert not complaints(diagnose(db_url=database, environ={}))
    assert "No database is configured" in only(diagnose(environ={})).says
    monkeypatch.chdir(tmp_path)
