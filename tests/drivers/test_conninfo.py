"""Connection strings, addresses and keys in the forms in which people have them: one reader for all who take them."""

from __future__ import annotations

import asyncio
import string
import time
from urllib.parse import quote, unquote, urlsplit

import psycopg
import pytest
from hypothesis import given as drawn, settings, strategies as st
from psycopg.conninfo import conninfo_to_dict

from langchain_supabase_history import HistoryStore, NotConfigured
from langchain_supabase_history.drivers.addresses import read_key, read_url
from langchain_supabase_history.drivers.conninfo import read, with_defaults
from langchain_supabase_history.drivers.psycopg_errors import translate
from langchain_supabase_history.migrations import migrate
from tests.doctor.helpers import complaints, examine

PLAIN = "postgresql://u:p@127.0.0.1:5432/db"
KEYWORDS = "host=127.0.0.1 port=5432 dbname=db user=u password=p"

WRAPPED = [
    " '{}' ",
    '"{}"\n',
    "`{}`",
    "<{}>",
    "\u201c{}\u201d",
    "\u2018{}\u2019",
    "\ufeff{}",
    '"\ufeff{}"',
    "\u200b{}\u200b",
    "\xa0{}",
    "{}\r\n",
    "{}\\n",
    "SUPABASE_DB_URL={}",
    "export DATABASE_URL='{}'",
    'export DATABASE_URL="{}";',
    '"{}",',
    "'{}'; # of the project",
    "DATABASE_URL={}   # of the project",
    'DATABASE_URL: "{}"',
]
FORMS = [
    *(
        f"{PLAIN}?{query}"
        for query in ("pgbouncer=true&connection_limit=1", "uselibpqcompat=true&charset=utf8", "PgBouncer=1")
    ),
    f"{PLAIN}?schema=public&prepareThreshold=0&workaround=supabase-pooler.vercel&supa=base-pooler.x",
    f"{PLAIN}?statement_timeout=5000&sslaccept=strict&pool_size=5&search_path=x&loginTimeout=3",
    f"{KEYWORDS} pgbouncer=true",
    f"psql '{PLAIN}'",
    f'psql "{KEYWORDS}"',
    f"$ psql -d '{PLAIN}'",
    f"psql {PLAIN};",
    "PGPASSWORD=p psql -h 127.0.0.1 -p 5432 -d db -U u",
    "PGPASSWORD=p psql -h 127.0.0.1 -p 5432 -d db -U u -W",
    f"/usr/bin/psql {PLAIN}",
    f'psql.exe "{PLAIN}"',
    f"{PLAIN};",
    "User Id=u;Password=p;Server=127.0.0.1;Port=5432;Database=db",
    "Host=127.0.0.1;Port=5432;Database=db;Username=u;Password=p;",
    "PGPASSWORD=p psql --host=127.0.0.1 --port 5432 -Uu db",
    *(f"{PLAIN}".replace("postgresql://", prefix) for prefix in ("postgresql+psycopg://", "jdbc:postgresql://")),
    *(f"{PLAIN}".replace("postgresql://", prefix) for prefix in ("postgresql+asyncpg://", "postgres+psycopg2://")),
]


@pytest.mark.parametrize("given", [*(wrapped.format(PLAIN) for wrapped in WRAPPED), *FORMS])
def test_connection_strings_of_other_tools(given: str) -> None:
    reading = read(given)
    assert conninfo_to_dict(with_defaults(reading.text, 10)) == conninfo_to_dict(with_defaults(PLAIN, 10))
    assert reading.notes
    assert "u:p" not in " ".join(reading.notes)
    notes = [
        finding for finding in examine(environ={"SUPABASE_DB_URL": given}, deadline=0.2) if finding.name == "address"
    ]
    assert [(finding.status, finding.says) for finding in notes] == [
        ("ok", f"SUPABASE_DB_URL: {note}.") for note in reading.notes
    ]


@pytest.mark.parametrize("given", [PLAIN, PLAIN.replace("postgresql", "POSTGRESQL"), "postgres" + PLAIN[10:], KEYWORDS])
def test_what_needs_no_note_has_none(given: str) -> None:
    assert not read(given).notes
    assert conninfo_to_dict(with_defaults(read(given).text, 10))["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("ssl=require", "require"),
        ("ssl=true", "require"),
        ("SSL=1", "require"),
        ("ssl=false&pgbouncer=true", "disable"),
        ("ssl=verify-full", "verify-full"),
        ("sslMode=verify-ca", "verify-ca"),
        ("sslmode=no-verify", "require"),
        ("sslmode=verify-full&ssl=false", "verify-full"),  # never weaker than what was asked for
        ("ssl=false&sslmode=require", "require"),
        ("ssl=no-verify&sslmode=verify-full&pgbouncer=true", "verify-full"),
    ],
)
def test_what_a_connection_string_says_of_tls_is_kept(query: str, mode: str) -> None:
    for text in (f"{PLAIN}?{query}", f"{KEYWORDS} {query.replace('&', ' ')}"):
        reading = read(text)
        assert conninfo_to_dict(with_defaults(reading.text, 10))["sslmode"] == mode
        assert reading.notes


def test_what_is_kept_is_kept_as_it_was() -> None:
    """A plus is a plus to libpq, and percent-encoding stays."""
    options = "options=-c%20statement_timeout%3D5s&password=a+b%2Bc"
    given = conninfo_to_dict(read(f"postgresql://u@h/db?{options}&pgbouncer=true").text)
    assert given["options"] == "-c statement_timeout=5s"
    assert given["password"] == "a+b+c"
    given = conninfo_to_dict(read("postgresql://u:p?max=3#;@h/db?pgbouncer=true").text)
    assert (given["password"], given["dbname"]) == ("p?max=3#;", "db")
    for text in ("host=h user=u password=a;Port=1;", "host=h password='a # b;'", "postgresql://u:p%20#@h/db"):
        assert conninfo_to_dict(read(text).text) == conninfo_to_dict(text)
    given = conninfo_to_dict(read("Server=h;User Id=u;Password= a'b\\c=d ;SSL Mode=VerifyFull").text)
    assert (given["password"], given["sslmode"]) == (r"a'b\c=d", "verify-full")
    assert (
        conninfo_to_dict(read(r"host=h password='a \'b pgbouncer=c' pgbouncer=true").text)["password"]
        == "a 'b pgbouncer=c"
    )


@settings(deadline=None)
@drawn(st.text(string.printable, min_size=1, max_size=20), st.sampled_from(["", "?pgbouncer=true&ssl=require"]))
def test_a_password_is_never_changed(password: str, query: str) -> None:
    text = f"postgresql://u:{quote(password, safe='')}@h:5432/db{query}"
    assert conninfo_to_dict(read(text).text)["password"] == unquote(quote(password, safe=""))
    assert conninfo_to_dict(read(f"psql '{text}'").text)["password"] == password


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (f"{PLAIN}?colour=blue", "colour"),
        (f"{KEYWORDS} colour=blue", "colour"),
        (f"{PLAIN}?ssl=perhaps", "sslmode=require"),
        ("https://abc.supabase.co", "web address"),
        (f"{PLAIN}\n{PLAIN}", "line break"),
        ("postgresql://u:p@127.0.0.1\u200b:5432/db", "invisible"),
        (f"psql {PLAIN} -c 'drop table x'", "psql command"),
        ("psql 'postgresql://u:p@h", "psql command"),
        ("psql", "psql command"),
        (rf"C:\pg\psql.exe {PLAIN}", "psql command"),
        ("mysql://u:p@h/db", "cannot be read"),
        ("", "connection string"),
    ],
)
def test_what_is_no_connection_string_is_said(given: str, says: str) -> None:
    for refuse in (HistoryStore.from_postgres, migrate):
        with pytest.raises(NotConfigured, match=says) as caught:
            refuse(given)
        assert "u:p" not in str(caught.value)
    if given:
        (finding,) = complaints(examine(environ={"SUPABASE_DB_URL": given}))
        assert (finding.name, says in f"{finding.says} {finding.fix}") == ("address", True)


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_addresses_and_keys_are_read_alike(wrapped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url, key = "https://abcdefghijklmnopqrst.supabase.co", "sb_secret_" + "x" * 30
    assert (read_url(wrapped.format(url)), read_key(wrapped.format(key))) == (url, key)
    monkeypatch.delenv("SUPABASE_DB_URL", raising=False)
    monkeypatch.setenv("SUPABASE_URL", wrapped.format(url))
    monkeypatch.setenv("SUPABASE_KEY", wrapped.format(key))
    for store in (HistoryStore.from_env(), HistoryStore.from_supabase(wrapped.format(url), wrapped.format(key))):
        assert store.driver.address == url
        assert store.driver.api_key == key


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("connect_timeout=abc", "connect_timeout"),
        ("keepalives=x", "keepalives"),
        ("channel_binding=x", "channel_binding"),
        ("target_session_attrs=x", "target_session_attrs"),
        ("service=nowhere", "nowhere"),
    ],
)
def test_values_that_libpq_cannot_use_are_named_at_once(setting: str, says: str, shared_database: str) -> None:
    started = time.monotonic()
    store = HistoryStore.from_postgres(f"{shared_database}?{setting}")
    with pytest.raises(NotConfigured, match=says):
        store.load("x")
    assert complaints(examine(store))[0].name == "address"
    store.close()
    assert time.monotonic() - started < store.driver.deadline


@pytest.mark.parametrize(
    ("name", "value"),
    [("PGPORT", "abc"), ("PGSSLMODE", "on"), ("PGSERVICE", "nowhere"), ("PGTARGETSESSIONATTRS", "x")],
)
def test_variables_that_libpq_cannot_use_are_named(
    name: str, value: str, shared_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    conninfo = f"host=127.0.0.1 user=postgres dbname=x port={urlsplit(shared_database).port}"
    if name == "PGPORT":
        conninfo = conninfo.partition(" port=")[0]
    with HistoryStore.from_postgres(conninfo) as store:
        for refused in (lambda: store.load("x"), lambda: asyncio.run(store.aload("x")), lambda: migrate(conninfo)):
            with pytest.raises(NotConfigured, match=name):
                refused()
        found = examine(store, environ={name: value})
    assert name in complaints(found)[0].says


@pytest.mark.parametrize(
    "words",
    [
        'root certificate file "/nowhere/root.crt" does not exist\nEither provide the file or change sslmode',
        'could not read root certificate file "/nowhere/root.crt": no certificate or crl found',
        'certificate present, but not private key file "/nowhere/client.key"',
        'weak sslmode "require" may not be used with sslrootcert=system (use "verify-full")',
    ],
)
def test_certificates_that_libpq_cannot_use_are_no_outage(words: str) -> None:
    error = psycopg.OperationalError(f'connection to server at "db.example.com" (::1), port 5432 failed: {words}')
    found = translate(error, connecting=True)
    assert isinstance(found, NotConfigured)
    assert words.splitlines()[0] in str(found)
