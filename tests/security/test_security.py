"""Who sees and changes what: every actor tries everything on everybody's rows, on both transports."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from langchain_core.messages import HumanMessage

from langchain_supabase_history import Forbidden, HistoryError, HistoryStore, InvalidInput, NotConfigured
from tests import servers
from tests.conftest import start
from tests.matrix import NAME, ROWS, Matrix, OverApi, OverSql, Request, Victim, functions, on_function, on_table, plant

# Functions that run as the tables' owner, each for a reason: policies forbid the index of words to others, so that the
# search checks itself who asks (tests/operations/test_search.py); who holds a share's token may be nobody's user.
DEFINERS = {"chat_history_search", "chat_history_shared"}
TABLES = ("deltas", "sessions", "messages", "turns", "feedback")  # first what attacks on the others may remove


def token(sub: str, secret: str | None = servers.JWT_SECRET, **claims: object) -> str:
    base = {"sub": sub, "aud": "authenticated", "role": "authenticated", "exp": int(time.time()) + 600}
    return jwt.encode({**base, **claims}, secret, algorithm="HS256" if secret else "none")  # type: ignore[arg-type]


def bad_tokens(sub: str) -> dict[str, str]:
    """Tokens that name a user and that nobody should take for theirs."""
    header, _, signature = token("somebody").split(".")
    return {
        "expired": token(sub, exp=int(time.time()) - 60),
        "forged": token(sub, "not the project's secret, but as long as it is"),
        "of another project": token(
            sub, "the secret of another project, as long", iss="https://other.supabase.co/auth/v1"
        ),
        "with a signature of another": ".".join([header, token(sub).split(".")[1], signature]),
        "unsigned": token(sub, None),
        "that calls itself the service": token(
            sub, "not the project's secret, but as long as it is", role="service_role"
        ),
    }


class Stage:
    """The database with two users' and the application's rows in it, and the actors."""

    def __init__(self, conninfo: str, store: HistoryStore, ids: list[str]) -> None:
        self.conninfo = conninfo
        for user_id in ids:
            store.delete_user(user_id)
        store.delete_session(NAME)
        self.ada, self.bob = (plant(store, conninfo, user_id) for user_id in ids)
        self.application = plant(store, conninfo, "")
        self.conn = psycopg.connect(conninfo, autocommit=True)
        self.client = httpx.Client(timeout=30)

    def close(self) -> None:
        self.conn.close()
        self.client.close()

    def sql(self, name: str, role: str, sub: str | None, **claims: object) -> OverSql:
        return OverSql(name, self.conn, role, None if sub is None else {"sub": sub, "role": role, **claims})

    def api(self, server: servers.Lite, name: str, token: str | None, key: str = servers.PUBLISHABLE_KEY) -> OverApi:
        headers = {"apikey": key} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        return OverApi(f"{name} over the Data API", server.url, headers, self.client)

    def matrix(self, *victims: Victim) -> Matrix:
        return Matrix(self.conn, {victim.user_id: victim for victim in victims})

    def columns(self, table: str) -> list[str]:
        query = "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
        return [name for (name,) in self.conn.execute(query, [table])]

    def attacks(self, victim: Victim, own: Victim, refused: str | None = "42501") -> Iterator[Request]:
        for table in Matrix(self.conn, {}).tables():
            yield from on_table(table, self.columns(table), victim, own)
        for function in functions(self.conn):
            yield from on_function(function, victim, own, refused)


# A database of this module's own: it is looked through after each attack, so that of all tests would be too large.


@pytest.fixture(scope="module")
def data_api(patient: tuple[str, servers.Lite]) -> servers.Lite:
    return patient[1]


@pytest.fixture(scope="module")
def users(data_api: servers.Lite) -> list[tuple[str, str]]:
    return [data_api.sign_up(f"{name}@example.com") for name in ("ada", "bob")]


@pytest.fixture(scope="module")
def postgres_store(patient: tuple[str, servers.Lite]) -> Iterator[HistoryStore]:
    with HistoryStore.from_postgres(patient[0], jwt_secret=servers.JWT_SECRET) as store:
        start(store)
        yield store


@pytest.fixture
def stage(
    patient: tuple[str, servers.Lite], postgres_store: HistoryStore, users: list[tuple[str, str]]
) -> Iterator[Stage]:
    made = Stage(patient[0], postgres_store, [user_id for user_id, _ in users])
    yield made
    made.close()


def conclude(matrix: Matrix, capsys: pytest.CaptureFixture[str], at_least: int) -> None:
    with capsys.disabled():
        print(f"\n  {matrix.cells} cells, {len(matrix.leaks)} leaks", end=" ")
    assert matrix.leaks == []
    assert matrix.malformed == []
    assert matrix.cells >= at_least


# --- the matrix


@pytest.mark.parametrize("way", ["sql", "api"])
def test_users_and_strangers_reach_nothing_of_others(
    stage: Stage, data_api: servers.Lite, users: list[tuple[str, str]], way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = stage.matrix()
    for mine, (victim, own) in enumerate(
        ((stage.bob, stage.ada), (stage.ada, stage.bob), (stage.application, stage.ada))
    ):
        attacker = (
            stage.sql("a user over SQL", "authenticated", own.user_id, role_claim="service_role", user_role="postgres")
            if way == "sql"
            else stage.api(data_api, "a user", users[mine % 2][1])
        )
        matrix = stage.matrix(victim)
        for request in stage.attacks(victim, own, refused="42501" if victim.user_id else None):
            matrix.attack(attacker, request)
        whole.cells += matrix.cells
        whole.leaks += matrix.leaks
        whole.malformed += matrix.malformed
    conclude(whole, capsys, 450)


@pytest.mark.parametrize("way", ["sql", "api"])
def test_a_public_key_alone_reaches_nothing_and_calls_nothing(
    stage: Stage, data_api: servers.Lite, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    anon = stage.sql("anon over SQL", "anon", None) if way == "sql" else stage.api(data_api, "anon", None)
    matrix = stage.matrix(stage.ada, stage.bob, stage.application)
    for request in stage.attacks(stage.bob, stage.ada):
        matrix.attack(anon, request, must_fail=True)
    conclude(matrix, capsys, 100)


def test_a_signed_in_role_without_a_user_reaches_nothing(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = stage.matrix(stage.ada, stage.bob, stage.application)
    for claims in (None, {}, {"sub": ""}, {"sub": None}, {"role": "service_role"}, {"sub": {"a": 1}}):
        nobody = OverSql(f"claims {claims}", stage.conn, "authenticated", claims)
        for request in stage.attacks(stage.bob, stage.ada):
            matrix.attack(nobody, request)
    conclude(matrix, capsys, 500)


def test_bad_tokens_reach_nothing_over_the_data_api(
    stage: Stage, data_api: servers.Lite, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = stage.matrix(stage.ada, stage.bob, stage.application)
    for name, bad in bad_tokens(stage.bob.user_id).items():
        attacker = stage.api(data_api, f"a token {name}", bad)
        for request in stage.attacks(stage.bob, stage.bob, refused=None):
            if "truncate" not in request.name:
                matrix.attack(attacker, request, must_fail=True)
    conclude(matrix, capsys, 500)


def test_the_matrix_sees_what_it_looks_for(
    stage: Stage, data_api: servers.Lite, users: list[tuple[str, str]], database: str
) -> None:
    """Each sees their own, the service and the owner all; and where a policy is missing, the matrix tells."""
    matrix = stage.matrix(stage.ada, stage.bob, stage.application)
    everybody = set(matrix.victims)
    actors: list[tuple[OverApi | OverSql, set[str]]] = [
        (stage.sql("ada", "authenticated", stage.ada.user_id), {stage.ada.user_id}),
        (stage.api(data_api, "ada", users[0][1]), {stage.ada.user_id}),
        (stage.api(data_api, "bob", users[1][1]), {stage.bob.user_id}),
        (stage.sql("service", "service_role", None), everybody),
        (stage.api(data_api, "secret key", None, servers.SECRET_KEY), everybody),
        (stage.sql("owner", "postgres", None), everybody),
    ]
    for actor, expected in actors:
        for table in TABLES:
            name = f"chat_history_{table}"
            seen: set[str] = set()
            for victim in matrix.victims.values():
                of = Request(
                    "",
                    f"select * from {name} where user_id = %s",
                    (victim.user_id,),
                    "GET",
                    f"{name}?user_id=eq.{victim.user_id}",
                )
                seen |= matrix.sees(actor, of)
            assert seen == expected, (actor.name, table)

    with HistoryStore.from_postgres(database) as store:
        other = Stage(database, store, ["ada", "bob"])
        for table in TABLES:
            with psycopg.connect(database, autocommit=True) as conn:
                conn.execute(f"alter table chat_history_{table} disable row level security".encode())
                loose = other.matrix(other.bob)
                for request in other.attacks(other.bob, other.ada):
                    if "truncate" not in request.name and "delete" not in request.name:
                        loose.attack(other.sql("ada", "authenticated", "ada"), request)
                assert any(f"chat_history_{table}" in leak and "content" in leak for leak in loose.leaks), table
                conn.execute(f"alter table chat_history_{table} enable row level security".encode())
        other.close()


def test_the_service_role_may_not_truncate_nor_grant(stage: Stage, data_api: servers.Lite) -> None:
    matrix = stage.matrix(stage.ada, stage.bob, stage.application)
    for role in ("service_role", "authenticated", "anon"):
        actor = stage.sql(role, role, stage.ada.user_id)
        for table in matrix.tables("r"):
            matrix.attack(actor, Request("", f"truncate {table} cascade", refused="42501"))
        matrix.attack(actor, Request("", "select chat_history_grant()", refused="42501"))
        matrix.attack(actor, Request("", "select chat_history_grant('anon')", refused="42501"))
    grant = Request("chat_history_grant", "", (), "POST", "rpc/chat_history_grant", {}, refused="42501")
    matrix.attack(stage.api(data_api, "the secret key", None, servers.SECRET_KEY), grant)
    assert matrix.leaks == []
    assert matrix.cells == 3 * (len(matrix.tables("r")) + 2) + 1


# --- the store


@pytest.mark.parametrize("transport", ["psycopg", "psycopg-claims", "data-api"])
def test_a_users_store_works_on_their_sessions_only(
    stage: Stage, postgres_store: HistoryStore, data_api: servers.Lite, users: list[tuple[str, str]], transport: str
) -> None:
    matrix = stage.matrix(stage.bob, stage.application)
    with HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as public:
        ada = {
            "psycopg": postgres_store.as_user(users[0][1]),
            # Whatever else the claims say, the role is that of a signed-in user.
            "psycopg-claims": postgres_store.as_user(claims={"sub": stage.ada.user_id, "role": "service_role"}),
            "data-api": public.as_user(users[0][1]),
        }[transport]
        assert stage.ada.marker in str(ada.load(NAME))
        assert ada.for_user(stage.ada.user_id).load(NAME) == ada.load(NAME)
        turn, _ = ada.turns(NAME)
        assert stage.ada.marker in str(next(ada.follow(NAME)))
        as_bob = ada.for_user(stage.bob.user_id)
        for refused in (
            lambda: as_bob.load(NAME),
            lambda: as_bob.messages(NAME),
            lambda: as_bob.turns(NAME),
            lambda: as_bob.session(NAME),
            lambda: as_bob.clear(NAME),
            lambda: as_bob.delete_session(NAME),
            lambda: as_bob.append(NAME, [HumanMessage("x")]),
            lambda: as_bob.usage(),
            lambda: as_bob.feedback(NAME),
            lambda: list(as_bob.follow(NAME)),
            lambda: as_bob.stop_turn(NAME),
            lambda: as_bob.add_feedback(NAME, turn, "k", score=1),
            lambda: as_bob.prune(dry_run=False),
            lambda: ada.delete_user(stage.bob.user_id),
            lambda: ada.usage(user_id=stage.bob.user_id),
            lambda: ada.get_session_history(NAME, stage.bob.user_id).messages,
            lambda: ada.get_session_history(NAME, stage.bob.user_id).add_messages([HumanMessage("x")]),
        ):
            with pytest.raises(Forbidden) as caught:
                refused()
            assert caught.value.code == "42501"
        ada.append(NAME, [HumanMessage("more")])
        ada.clear(NAME)
        assert ada.delete_session(NAME) is True
        ada.prune(dry_run=False)
        ada.delete_user(stage.ada.user_id)
        matrix.attack(stage.sql("", "authenticated", stage.ada.user_id), Request("afterwards", "select 1"))
        assert matrix.leaks == []
        assert stage.bob.marker in str(postgres_store.for_user(stage.bob.user_id).load(NAME))
        assert stage.application.marker in str(postgres_store.load(NAME))


@pytest.mark.parametrize("transport", ["psycopg", "data-api"])
def test_a_store_takes_no_bad_token(
    stage: Stage, postgres_store: HistoryStore, data_api: servers.Lite, transport: str
) -> None:
    before = stage.matrix(stage.bob).snapshot()
    with HistoryStore.from_supabase(data_api.url, servers.PUBLISHABLE_KEY) as public:
        store = postgres_store if transport == "psycopg" else public
        bad = bad_tokens(stage.bob.user_id)
        if transport == "psycopg":
            bad |= {
                "of another audience": token(stage.bob.user_id, aud="anon"),
                "without an audience": jwt.encode({"sub": stage.bob.user_id, "exp": 2**31}, servers.JWT_SECRET),
                "without an end": jwt.encode({"sub": stage.bob.user_id, "aud": "authenticated"}, servers.JWT_SECRET),
                "without a user": jwt.encode({"aud": "authenticated", "exp": 2**31}, servers.JWT_SECRET),
                "of an empty user": token(""),
                "of another algorithm": jwt.encode(
                    {"sub": stage.bob.user_id, "aud": "authenticated", "exp": 2**31}, servers.JWT_SECRET * 2, "HS512"
                ),
            }
        for name, access_token in bad.items():
            with pytest.raises((Forbidden, NotConfigured)) as caught:
                store.as_user(access_token).load(NAME)
            assert access_token not in f"{caught.value} {caught.value!r}", name
            with pytest.raises(HistoryError):
                store.as_user(lambda t=access_token: t).append(NAME, [HumanMessage("x")])  # type: ignore[misc]
        if transport == "data-api":
            with pytest.raises(Forbidden, match="as_user"):
                public.load(NAME)
        for claims in ({}, {"sub": ""}, {"sub": None}, {"sub": 7}, {"role": "service_role"}):
            with pytest.raises(InvalidInput):
                store.as_user(claims=claims)
    assert stage.matrix(stage.bob).snapshot() == before
    assert stage.bob.marker in str(postgres_store.for_user(stage.bob.user_id).load(NAME))


# --- what one user can tell or hold up of another's


def slipped_in(table: str, key: str, user_id: str, taken: Victim | None) -> dict[str, Any]:
    """A row under another's key: at a place that is taken there, or at a free one."""
    row = {
        "session_key": key,
        "user_id": user_id,
        **ROWS[table](taken or Victim("", "", "", "", str(uuid.uuid4()), {})),
    }
    if taken is None:
        row |= {name: 7_000 for name in ("position", "ordinal") if name in row}
    elif table == "chat_history_messages":
        row["id"] = taken.message_id
    return row


@pytest.mark.parametrize("table", [t for t in TABLES if t != "sessions"])
def test_a_row_in_anothers_session_is_refused_alike_whatever_is_there(
    stage: Stage, data_api: servers.Lite, users: list[tuple[str, str]], table: str
) -> None:
    name, ada = f"chat_history_{table}", stage.ada.user_id
    attackers: list[Any] = [stage.sql("ada", "authenticated", ada), stage.api(data_api, "ada", users[0][1])]
    for attacker in attackers:
        outcomes = set()
        for key, taken in ((stage.bob.key, stage.bob), (stage.bob.key, None), (str(uuid.uuid4()), None)):
            row = slipped_in(name, key, ada, taken)
            values = tuple(json.dumps(v) if isinstance(v, dict) else v for v in row.values())
            insert = f"insert into {name} ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})"
            for sql in (insert, f"{insert} on conflict do nothing"):
                outcome = attacker.try_(Request("slip in", sql, values, "POST", name, row))
                assert outcome is not None
                outcomes.add((outcome.code, outcome.text.replace(key, "")))
        assert len(outcomes) == 1, outcomes
        assert {code for code, _ in outcomes} == {"42501"}


@pytest.mark.parametrize("way", ["insert", "update"])
@pytest.mark.parametrize("table", ["messages", "turns"])
def test_a_statement_of_one_user_holds_up_no_append_of_another(stage: Stage, table: str, way: str) -> None:
    name, ada, bob = f"chat_history_{table}", stage.ada, stage.bob
    following = stage.conn.execute(
        "select last_position + 1, last_turn + 1 from chat_history_sessions where session_key = %s", [bob.key]
    ).fetchone()
    assert following is not None
    place = {"position": following[0]} if table == "messages" else {"ordinal": following[1]}
    if way == "insert":
        row = slipped_in(name, bob.key, ada.user_id, None) | place
        values = [json.dumps(v) if isinstance(v, dict) else v for v in row.values()]
        change = f"insert into {name} ({', '.join(row)}) values ({', '.join(['%s'] * len(row))}) returning 1"
    else:
        (column, where), values = next(iter(place.items())), [bob.key, *place.values(), ada.key]
        change = f"update {name} set session_key = %s, {column} = %s where session_key = %s returning {where} * 0"
    with psycopg.connect(stage.conninfo) as alices, psycopg.connect(stage.conninfo, autocommit=True) as bobs:
        alices.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": ada.user_id})])
        alices.execute("set local role authenticated")
        alices.execute("set local statement_timeout = '30s'")

        def hold() -> str | None:
            try:
                # The row is written, then the statement sleeps: what refuses it only at its end holds others up.
                alices.execute(f"with w as ({change}) select pg_sleep(20) from w".encode(), values)
            except psycopg.Error as error:
                return error.sqlstate
            return None

        with ThreadPoolExecutor(1) as pool:
            holding = pool.submit(hold)
            while not holding.done() and not sleeps(stage.conn, alices.info.backend_pid):
                pass
            bobs.execute("set lock_timeout = '2s'")
            bobs.execute(
                "select chat_history_append(%s, array[gen_random_uuid()], '{human}', '{\"{}\"}', user_id => %s)",
                [NAME, bob.user_id],
            )
            assert holding.result() == "42501"


def sleeps(conn: psycopg.Connection[Any], pid: int) -> bool:
    row = conn.execute("select wait_event = 'PgSleep' from pg_stat_activity where pid = %s", [pid]).fetchone()
    return row == (True,)


def test_parts_of_functions_cannot_be_called_over_the_data_api(database: str) -> None:
    """PostgREST neither lists nor calls functions of unnamed arguments, but for a single one of json or text."""
    with psycopg.connect(database) as conn:
        rows = conn.execute(
            "select proname, proargnames, (select array_agg(format_type(t, null)) from unnest(proargtypes) t) "
            "from pg_proc where proname like 'chat\\_history\\_%' and pronargs > 0"
        ).fetchall()
    for name, names, kinds in rows:
        assert names is None or "" not in names, f"{name} mixes arguments with and without names"
        assert names or kinds not in ([["json"], ["jsonb"], ["text"], ["bytea"], ["xml"]]), name
    parts = {name for name, names, _ in rows if names is None}
    assert {f"chat_history_{part}" for part in ("lock", "put_turn", "settle", "sweep", "window_start")} <= parts


def test_no_warning_of_supabases_advisors(database: str) -> None:
    """What its linter warns of: functions that run as their owner, but those that are meant to; a loose search path;
    tables without row security."""
    with psycopg.connect(database) as conn:
        warned = conn.execute(
            "select proname from pg_proc where proname like 'chat\\_history\\_%' and (prosecdef or not exists "
            "(select from unnest(proconfig) c where c like 'search_path=%')) "
            "union select relname from pg_class where relname like 'chat\\_history\\_%' and relkind = 'r' "
            "and (not relrowsecurity or not exists (select from pg_policy where polrelid = pg_class.oid))"
        ).fetchall()
    assert {name for (name,) in warned} == DEFINERS


# --- the schema


def test_nothing_runs_as_its_owner_unless_it_is_known_to(database: str) -> None:
    """Functions run as their caller, views read as their reader, every table has row level security."""
    with psycopg.connect(database, autocommit=True) as conn:
        definers = conn.execute(
            "select proname from pg_proc where proname like 'chat\\_history%' and prosecdef"
        ).fetchall()
        assert {name for (name,) in definers} <= DEFINERS
        views = conn.execute(
            "select relname, reloptions from pg_class where relname like 'chat\\_history%' and relkind in ('v', 'm')"
        ).fetchall()
        assert views
        for name, options in views:
            assert "security_invoker=true" in (options or []), name
        bare = conn.execute(
            "select relname from pg_class where relname like 'chat\\_history%' and relkind in ('r', 'p') "
            "and not relrowsecurity"
        ).fetchall()
        assert bare == []
        policies = conn.execute(
            "select tablename, roles::text, qual, with_check from pg_policies where tablename like 'chat\\_history%' "
            "order by 1"
        ).fetchall()
        assert {name for name, *_ in policies} >= {f"chat_history_{t}" for t in TABLES}
        for name, roles, using, check in policies:
            own = "(user_id = ( SELECT chat_history_user() AS chat_history_user))"
            in_own_session = (
                f"({own} AND (EXISTS ( SELECT FROM chat_history_sessions s WHERE ((s.session_key = {name}.session_key) "
                f"AND (s.user_id = {name}.user_id)))))"
            )
            form = {
                "chat_history_migrations": ("true", None),
                "chat_history_sessions": (own, own),
            }.get(name, (own, in_own_session))
            assert roles == "{public}"
            assert (using, check and " ".join(check.split())) == form, name


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("verb", ["select", "update", "delete"])
def test_the_policy_is_evaluated_once_for_a_query(database: str, table: str, verb: str) -> None:
    relation = f"chat_history_{table}"
    query = {
        "select": f"select * from {relation}",
        "update": f"update {relation} set created_at = created_at",
        "delete": f"delete from {relation}",
    }[verb]
    with HistoryStore.from_postgres(database) as store:
        for name in ("one", "two", "three"):
            plant(store, database, "ada", name)
    with psycopg.connect(database) as conn:
        conn.execute("select set_config('request.jwt.claims', '{\"sub\": \"ada\"}', true)")
        conn.execute("set local role authenticated")
        plan = [row[0] for row in conn.execute(f"explain (verbose, analyze) {query}".encode())]
    text = "\n".join(plan)
    evaluations = [n for n, line in enumerate(plan) if "chat_history_user()" in line]
    assert evaluations, text
    # Each in an InitPlan, none in a filter. At most one for using and one for check; where a check asks whether the
    # session is the user's own, two more for the policy of sessions.
    in_own_session = verb == "update" and table != "sessions"
    for n in evaluations:
        assert plan[n].strip() == "Output: chat_history_user()", text
        assert "InitPlan" in plan[n - 2], text
        assert "loops=1)" in plan[n - 1] or "never executed" in plan[n - 1], text
    assert len(evaluations) <= (4 if in_own_session else 2), text
    assert in_own_session or "SubPlan" not in text


def test_sessions_of_one_name_never_meet(postgres_store: HistoryStore) -> None:
    """Ids that would be one text if they were put together are still two keys."""
    pairs = [
        *[("a", "bc"), ("ab", "c"), ("a|b", "c"), ("a", "b|c"), ("a\n", "b"), ("a", "\nb")],
        *[("A", "bc"), ("a ", "bc"), ("ä", "bc"), ("a\u0308", "bc")],
    ]
    suffix = str(uuid.uuid4())
    for user_id, name in pairs:
        postgres_store.for_user(user_id + suffix).append(suffix + name, [HumanMessage(f"{user_id!r} {name!r}")])
    for user_id, name in pairs:
        found: list[Any] = list(postgres_store.for_user(user_id + suffix).load(suffix + name))
        assert [m.text for m in found] == [f"{user_id!r} {name!r}"]
    assert all(postgres_store.load(suffix + name) == [] for _, name in pairs)
