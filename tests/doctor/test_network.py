"""What the doctor says where the server cannot be reached, or is not the one."""

from __future__ import annotations

import socket
import time

import pytest

from langchain_supabase_history.doctor.network import reach
from tests import servers
from tests.doctor.helpers import PASSWORD, complaints, examine, only, sound, web_server
from tests.proxy import proxy


def test_unknown_host_names(data_api: servers.Lite) -> None:
    for found in (
        examine(db_url=f"postgresql://u:{PASSWORD}@db.nowhere.invalid/x"),
        examine(url="https://nowhere.invalid", key=servers.SECRET_KEY),
    ):
        finding = only(found)
        assert finding.name == "network"
        assert "nowhere.invalid is not known" in finding.says
        assert "Copy" in finding.fix


def test_nothing_listens() -> None:
    port = servers.free_port()
    for found in (
        examine(db_url=f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/x"),
        examine(url=f"http://127.0.0.1:{port}", key=servers.SECRET_KEY),
    ):
        finding = only(found)
        assert finding.name == "network"
        assert finding.says == f"Nothing listens at 127.0.0.1:{port}."
        assert "port" in finding.fix


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        assert (
            "does not answer as PostgreSQL within 0.5 s"
            in only(examine(db_url=f"postgresql://u@127.0.0.1:{port}/x", deadline=1)).says
        )
        found = only(examine(url=f"http://127.0.0.1:{port}", key=servers.SECRET_KEY, deadline=1))
        assert "did not answer in time" in found.says


def test_a_port_of_something_else() -> None:
    with web_server(200, b"<html>") as url:
        finding = only(examine(db_url=url.replace("http://", "postgresql://u@") + "/x"))
        assert "PostgreSQL" in finding.says
        assert "6543" in finding.fix


def test_an_address_with_ipv6_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*args: object, **kwargs: object) -> None:  # the machine's lack of a route, not a server
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", no_route)
    finding = reach("2001:db8::1", 5432, "require", 1)
    assert finding.status == "fault"
    assert "IPv6 address only" in finding.says
    assert "Session pooler" in finding.fix


def test_tls_that_is_required_and_not_offered(database: str) -> None:
    finding = only(examine(db_url=f"{database}?sslmode=require"))
    assert finding.name == "tls"
    assert "offers none" in finding.says
    assert "sslmode=disable" in finding.fix
    sound(examine(db_url=f"{database}?sslmode=disable"))


def test_https_to_a_server_without_tls(data_api: servers.Lite) -> None:
    finding = only(examine(url=data_api.url.replace("http:", "https:"), key=servers.SECRET_KEY))
    assert finding.name == "tls"
    assert "http://" in finding.fix


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (404, b"<html>not found</html>", {}),
        (200, b"<html>welcome</html>", {}),
        (301, b"", {"Location": "https://elsewhere.invalid/"}),
        (405, b"", {}),
        (501, b"<html>", {}),
    ],
)
def test_a_url_that_is_no_data_api(status: int, body: bytes, headers: dict[str, str]) -> None:
    with web_server(status, body, headers) as url:
        started = time.monotonic()
        finding = only(examine(url=url, key=servers.SECRET_KEY))
        assert time.monotonic() - started < 5
    assert finding.name == "address"
    assert "Data API" in finding.says
    assert "SUPABASE_URL" in finding.says + finding.fix


def test_a_slow_database(pg: servers.Postgres, database: str) -> None:
    with proxy(pg.port) as slow:
        slow.delay = 0.08
        found = examine(db_url=database.replace(f":{pg.port}/", f":{slow.port}/"), deadline=1.5)
        assert not complaints(found)
        finding = only(found, "warning")
        assert finding.name == "latency"
        assert "the deadline is 1.5 s" in finding.says
        assert "region" in finding.fix
        slow.delay = 0.6
        finding = complaints(examine(db_url=database.replace(f":{pg.port}/", f":{slow.port}/"), deadline=1))[0]
        assert "does not answer as PostgreSQL within 0.5 s" in finding.says
