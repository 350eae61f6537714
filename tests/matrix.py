"""A matrix of attacks: who tries what on whose rows. Every cell is tried for real and judged as the tables' owner.

A cell leaks when its answer holds a victim's content, when anything of a victim's has changed after it, or when a call
that names another user is not refused with 42501.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import HistoryStore, Turn
from langchain_supabase_history.operations.messages import begin_call
from langchain_supabase_history.operations.streams import write_call

NAME = "a name that both of them use"
# What an attack must never be answered, for then it was none: the statement or its arguments could not be read.
MALFORMED = {"42601", "42883", "42703", "42P18", "42804", "42846", "22P02", "PGRST202", "PGRST204", "PGRST205"}


@dataclass(frozen=True)
class Victim:
    """Whose rows must not be seen or changed, with all that an attacker might know of them. '' is the application."""

    user_id: str
    marker: str
    key: str
    message_id: str
    turn_id: str
    row: dict[str, Any]
    running_id: str = str(uuid.UUID(int=0))  # of a turn whose answer is being written


@dataclass(frozen=True)
class Request:
    """One attack, as it is made on either transport. `refused` is the code that the answer must have."""

    name: str
    sql: str
    params: tuple[Any, ...] = ()
    method: str = ""
    path: str = ""
    body: Any = None
    prefer: str = "return=representation"
    refused: str | None = None


@dataclass(frozen=True)
class Outcome:
    ok: bool
    code: str | None
    text: str


@dataclass
class OverApi:
    """An attacker with a key and perhaps a token, over the Data API."""

    name: str
    url: str
    headers: dict[str, str]
    client: httpx.Client

    def try_(self, request: Request) -> Outcome | None:
        if not request.method:
            return None
        reply = self.client.request(
            request.method,
            f"{self.url}/rest/v1/{request.path}",
            json=request.body,
            headers={**self.headers, "Prefer": request.prefer},
        )
        body = reply.json() if reply.text.startswith("{") else {}
        return Outcome(reply.is_success, body.get("code", str(reply.status_code)), reply.text)


@dataclass
class OverSql:
    """An attacker on a connection of the owner's that has taken a role and claims, as every call of `as_user` does."""

    name: str
    conn: psycopg.Connection[Any]
    role: str
    claims: dict[str, Any] | None

    def try_(self, request: Request) -> Outcome | None:
        try:
            with self.conn.transaction():
                claims = "" if self.claims is None else json.dumps(self.claims)
                self.conn.execute("select set_config('request.jwt.claims', %s, true)", [claims])
                self.conn.execute("set local statement_timeout = '20s'")
                self.conn.execute(f"set local role {self.role}".encode())
                cursor = self.conn.execute(request.sql.encode(), request.params)
                rows = cursor.fetchall() if cursor.description else []
            return Outcome(True, None, str(rows))
        except psycopg.Error as error:
            return Outcome(False, error.sqlstate, str(error))


class Matrix:
    """Tries cells on one database and keeps count. `leaks` names the cells that leaked."""

    def __init__(self, owner: psycopg.Connection[Any], victims: dict[str, Victim]) -> None:
        self.owner = owner
        self.victims = victims
        self.cells = 0
        self.leaks: list[str] = []
        self.malformed: list[str] = []
        self._before = self.snapshot()

    def snapshot(self) -> list[str]:
        """All that is the victims' or lies in their sessions, with the transactions that wrote it."""
        ids, keys = [v.user_id for v in self.victims.values()], [v.key for v in self.victims.values()]
        return [
            str(
                self.owner.execute(
                    f"select t::text, t.xmin::text from {table} t "
                    "where user_id = any(%s) or session_key = any(%s::uuid[]) order by 1".encode(),
                    [ids, keys],
                ).fetchall()
            )
            for table in self.tables("r")
            if table != "chat_history_migrations"
        ]

    def tables(self, kinds: str = "rv") -> list[str]:
        query = (
            "select relname from pg_class where (relname like 'chat\\_history\\_%%' or relname = 'conversations') "
            "and relkind = any(%s) order by 1"
        )
        return [name for (name,) in self.owner.execute(query, [list(kinds)])]

    def attack(self, who: OverApi | OverSql, request: Request, *, must_fail: bool = False) -> None:
        outcome = who.try_(request)
        if outcome is None:
            return
        self.cells += 1
        why = []
        if any(victim.marker in outcome.text for victim in self.victims.values()):
            why.append("was answered a victim's content")
        if outcome.ok and must_fail:
            why.append("was not refused")
        if request.refused is not None and outcome.code != request.refused:
            why.append(f"was answered {outcome.code} instead of {request.refused}: {outcome.text[:200]}")
        if outcome.code in MALFORMED:
            self.malformed.append(f"{request.name}: {outcome.text[:200]}")
        now = self.snapshot()
        if now != self._before:
            why.append("changed a victim's rows")
            self._before = now
        self.leaks += [f"{who.name}: {request.name}: {reason}" for reason in why]

    def sees(self, who: OverApi | OverSql, request: Request) -> set[str]:
        """Whose content an answer holds: the positive control."""
        outcome = who.try_(request)
        assert outcome is not None
        assert outcome.ok, outcome
        return {name for name, victim in self.victims.items() if victim.marker in outcome.text}


def plant(store: HistoryStore, conninfo: str, user_id: str, name: str = NAME) -> Victim:
    """A session with a turn, one that runs, messages, feedback, title and metadata, all with a marker in them."""
    marker = f"SECRET-{uuid.uuid4()}"
    view = store.for_user(user_id) if user_id else store
    turn = Turn(
        uuid.uuid4(),
        model=marker,
        error=marker,
        documents=[{"id": marker}],
        metadata={"a": marker},
        trace_id=marker,
        project="p",
    )
    stored = view.append(name, [HumanMessage(marker), AIMessage(marker)], turn=turn)
    view.add_feedback(name, stored[0], "helpful", score=1, comment=marker, value=marker)
    running = Turn(uuid.uuid4(), status="running")
    store.execute(begin_call(view.scope, name, [HumanMessage(marker)], running))
    store.execute(write_call(view.scope, name, running.id, uuid.uuid4(), 0, marker, lease=3600))
    with psycopg.connect(conninfo, autocommit=True) as conn:
        row = conn.execute(
            "update chat_history_sessions s set title = %s, metadata = json_build_object('a', %s::text) "
            "where user_id = %s and session_id = %s returning session_key::text, to_json(s)",
            [marker, marker, user_id, name],
        ).fetchone()
    assert row is not None
    known = {**row[1], "title": None, "metadata": None}  # an attacker may know all of a row but its content
    return Victim(user_id, marker, row[0], str(stored[0].id), str(turn.id), known, str(running.id))


# --- attacks on tables

VIEWS = ("_usage", "_summary", "_list", "conversations")


def on_table(table: str, columns: list[str], victim: Victim, own: Victim) -> Iterator[Request]:
    """Everything that may be tried on a table or view."""
    theirs = f"{table}?user_id=eq.{victim.user_id}" if "user_id" in columns else table
    where = "where user_id = %s" if "user_id" in columns else "where %s::text is not null"
    who = (victim.user_id,)
    yield Request(f"select all of {table}", f"select * from {table}", (), "GET", table)
    yield Request(f"select theirs of {table}", f"select * from {table} {where}", who, "GET", theirs)
    yield Request(f"select theirs of {table} for update", f"select * from {table} {where} for update", who)
    yield Request(f"copy {table}", f"select t::text from {table} t {where}", who, "GET", f"{table}?select=*&limit=9")
    yield Request(f"delete theirs from {table}", f"delete from {table} {where} returning *", who, "DELETE", theirs)
    if not table.endswith(VIEWS):
        yield Request(f"truncate {table}", f"truncate {table} cascade", refused="42501")
    if "user_id" not in columns:
        yield Request(f"insert into {table}", f"insert into {table} default values")
        yield Request(
            f"update {table}", f"update {table} set version = 9", (), "PATCH", f"{table}?version=gt.0", {"version": 9}
        )
        return
    if table == "conversations":
        yield from on_conversations(victim, own)
    if "session_key" not in columns:
        return
    # Rows slipped in: under another's name, or into another's session under one's own.
    for label, user_id in (("as them", victim.user_id), ("as oneself", own.user_id)):
        row = {**ROWS[table](victim), "session_key": victim.key, "user_id": user_id}
        names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
        values = tuple(json.dumps(v) if isinstance(v, (dict, list)) else v for v in row.values())
        insert = f"insert into {table} ({names}) values ({marks})"
        yield Request(f"insert {label} into {table}", insert, values, "POST", table, row)
        conflict = "session_key" if table == "chat_history_sessions" else "session_key, " + KEYS[table]
        yield Request(
            f"upsert {label} into {table}",
            f"{insert} on conflict ({conflict}) do update set user_id = excluded.user_id returning *",
            values,
            "POST",
            f"{table}?on_conflict={conflict.replace(' ', '')}",
            row,
            "resolution=merge-duplicates,return=representation",
        )
        yield Request(
            f"insert {label} into {table}, ignoring conflicts",
            f"{insert} on conflict do nothing",
            values,
            "POST",
            table,
            row,
            "resolution=ignore-duplicates,return=representation",
        )
    # Their rows taken, and one's own given away or moved into their session.
    changes = {
        "take theirs": (victim.user_id, {"user_id": own.user_id}),
        "move theirs here": (victim.user_id, {"user_id": own.user_id, "session_key": own.key}),
        "touch theirs": (victim.user_id, {"created_at": "2000-01-01T00:00:00Z"}),
        "give mine away": (own.user_id, {"user_id": victim.user_id}),
        "move mine there": (own.user_id, {"session_key": victim.key}),
        "move and give": (own.user_id, {"session_key": victim.key, "user_id": victim.user_id}),
    }
    for label, (of_user, change) in changes.items():
        sets = ", ".join(f"{name} = %s" for name in change)
        yield Request(
            f"{label} in {table}",
            f"update {table} set {sets} where user_id = %s returning *",
            (*change.values(), of_user),
            "PATCH",
            f"{table}?user_id=eq.{of_user}",
            change,
        )
    yield Request(
        f"touch all of {table}",
        f"update {table} set created_at = created_at",
        (),
        "PATCH",
        f"{table}?created_at=gt.2000-01-01",
        {"user_id": own.user_id},
    )


def on_conversations(victim: Victim, own: Victim) -> Iterator[Request]:
    """Writes through the view `conversations`: of another's conversation, and of one's own given away."""
    said = [{"role": "user", "content": "slipped in"}]
    theirs = f"conversations?user_id=eq.{victim.user_id}"
    for label, user_id in (("as them", victim.user_id), ("as oneself", own.user_id), ("as nobody", None)):
        row = {"id": victim.key, "conversation_id": NAME, "user_id": user_id, "messages": said, "analytics": {"a": 1}}
        insert = (
            "insert into conversations (id, conversation_id, user_id, messages, analytics) values (%s, %s, %s, %s, %s)"
        )
        values = (victim.key, NAME, user_id, json.dumps(said), '{"a": 1}')
        refused = "42501" if user_id and user_id != own.user_id else None
        yield Request(f"save {label}", insert, values, "POST", "conversations", row, refused=refused)
    for label, change in (
        ("say in", {"messages": said}),
        ("empty", {"messages": []}),
        ("take", {"user_id": own.user_id}),
    ):
        column, value = next(iter(change.items()))
        yield Request(
            f"{label} theirs in conversations",
            f"update conversations set {column} = %s where user_id = %s returning *",
            (json.dumps(value) if column == "messages" else value, victim.user_id),
            "PATCH",
            theirs,
            change,
        )
    yield Request(
        "give mine away in conversations",
        "update conversations set user_id = %s where user_id = %s",
        (victim.user_id, own.user_id),
        "PATCH",
        f"conversations?user_id=eq.{own.user_id}",
        {"user_id": victim.user_id},
    )


ROWS: dict[str, Any] = {
    "chat_history_sessions": lambda v: {"session_id": NAME, "title": "squatted"},
    "chat_history_messages": lambda v: {
        "position": 1,
        "id": str(uuid.uuid4()),
        "turn_id": v.turn_id,
        "type": "human",
        "data": {"content": "slipped in"},
        "tokens": 1,
    },
    "chat_history_turns": lambda v: {"id": v.turn_id, "ordinal": 99, "status": "completed"},
    "chat_history_feedback": lambda v: {
        "id": str(uuid.uuid4()),
        "turn_id": v.turn_id,
        "key": "helpful",
        "score": 0,
        "ordinal": 99,
    },
    "chat_history_alternatives": lambda v: {"id": str(uuid.uuid4()), "position": 1, "message_count": 1, "parked": 1},
    "chat_history_shares": lambda v: {"token_hash": "\\x00", "messages": []},
    "chat_history_streams": lambda v: {
        "turn_id": v.running_id,
        "answer_id": str(uuid.uuid4()),
        "beat_at": "2026-01-01T00:00:00Z",
        "lost_at": "2026-01-01T00:00:00Z",
    },
    "chat_history_deltas": lambda v: {"turn_id": v.running_id, "position": 99, "text": "slipped in"},
}
KEYS = {
    "chat_history_messages": "position",
    "chat_history_turns": "id",
    "chat_history_feedback": "id",
    "chat_history_alternatives": "id",
    "chat_history_shares": "token_hash",
    "chat_history_streams": "turn_id",
    "chat_history_deltas": "turn_id, position",
}


# --- attacks on functions


@dataclass(frozen=True)
class Function:
    """A function of ours, as the catalogue describes it."""

    name: str
    arguments: tuple[tuple[str, str], ...]

    @property
    def names_a_user(self) -> bool:
        # A session's key may be computed by anybody: it is a hash of what they know already.
        return self.name != "chat_history_key" and any(name == "user_id" for name, _ in self.arguments)


def functions(conn: psycopg.Connection[Any]) -> list[Function]:
    rows = conn.execute(
        "select p.proname, array("
        "select coalesce(p.proargnames[n], '') || ':' || format_type(p.proargtypes[n - 1], null) "
        "from generate_series(1, p.pronargs) n) from pg_proc p "
        "where p.proname like 'chat\\_history%' and p.prorettype <> 'trigger'::regtype order by 1"
    )
    return [Function(name, tuple(tuple(a.split(":", 1)) for a in arguments)) for name, arguments in rows]


def on_function(function: Function, victim: Victim, own: Victim, refused: str | None) -> Iterator[Request]:
    """The function, told to work on another's session: by their name, by one's own, and by their rows."""
    yield _call(function, "naming them", victim, victim.user_id, victim.row, refused if function.names_a_user else None)
    if function.names_a_user:
        yield _call(function, "naming oneself", victim, own.user_id, {**victim.row, "user_id": own.user_id}, None)
        if function.name not in ("chat_history_owner", "chat_history_callers_owner"):  # they must be told
            yield _call(function, "naming nobody", victim, None, victim.row, None)
    else:
        hidden = {"cleared_position": 99, "cleared_turn": 99, "revision": 99, "title": None}
        yield _call(function, "of all", victim, own.user_id, {**victim.row, **hidden}, None)
        yield _call(function, "slipped in", victim, own.user_id, {**victim.row, "user_id": own.user_id}, None)


def _call(
    function: Function, how: str, victim: Victim, user_id: str | None, row: dict[str, Any], refused: str | None
) -> Request:
    marks, params, body = [], [], {}
    for name, kind in function.arguments:
        value = _value(function.name, name, kind, victim, user_id, row)
        if value is None and name:
            continue
        mark, param, sent = _argument(kind, value)
        marks.append(f"{name} => {mark}" if name else mark)
        params.append(param)
        body[name] = sent
    sql = f"select * from {function.name}({', '.join(marks)})"
    if "" in body:  # no rpc: the Data API calls no function whose arguments have no names
        return Request(f"{function.name} {how}", sql, tuple(params), refused=refused)
    path = f"rpc/{function.name}"
    return Request(f"{function.name} {how}", sql, tuple(params), "POST", path, body, refused=refused)


def _argument(kind: str, value: Any) -> tuple[str, Any, Any]:
    """An argument as it is sent: its mark and its parameter in SQL, and its JSON."""
    table = kind.rpartition(".")[2]
    if table.startswith("chat_history_"):
        return f"json_populate_record(null::{table}, %s)", json.dumps(value), _record(value)
    if kind in ("json", "jsonb"):
        return f"%s::{kind}", None if value is None else json.dumps(value), value
    if kind == "json[]":
        return "%s::json[]", [json.dumps(one) for one in value], value
    return f"%s::{kind}", value, value


def _record(row: dict[str, Any]) -> str:
    """A row as PostgreSQL writes it; the server of the tests takes a composite argument in no other form."""
    return "(" + ",".join("" if v is None else '"' + str(v).replace('"', '""') + '"' for v in row.values()) + ")"


def _value(function: str, name: str, kind: str, victim: Victim, user_id: str | None, row: dict[str, Any]) -> Any:
    if name in ("user_id", "owner"):  # the second: of the functions that others are made of
        return user_id
    if kind.endswith("chat_history_sessions"):
        return row
    if kind.endswith("chat_history_turns"):
        return {**row, "id": victim.turn_id, "status": "failed", "first_position": 1}
    if kind.endswith("chat_history_messages"):
        return {"session_key": victim.key, "user_id": row["user_id"], "position": 1, "type": "ai", "data": "text"}
    if kind.endswith("chat_history_feedback"):
        return {**row, "id": str(uuid.uuid4()), "turn_id": victim.turn_id, "key": "helpful"}
    if kind.endswith("chat_history_alternatives"):
        place = {"id": str(uuid.uuid4()), "position": 1, "message_count": 1, "parked": 1}
        return {"session_key": victim.key, "user_id": row["user_id"], **place, "follows": victim.message_id}
    if kind.endswith("chat_history_batch"):
        return {"ids": [str(uuid.uuid4())], "types": ["human"], "data": [{"content": "slipped in"}], "tokens": [1]}
    if not name:
        return _unnamed(kind, victim, user_id)
    about_turn = {"turn_id": victim.turn_id, "session_id": NAME, "user_id": user_id, "id": str(uuid.uuid4())}
    by_name = {
        "of_session": victim.key,
        "session_id": NAME,
        "name": NAME,
        "after_session": None,
        "dry_run": False,
        "feedback": {**about_turn, "key": "k", "score": 0, "updated_at": "2026-01-01T00:00:00Z"},
        "turn": {"id": victim.turn_id, "status": "failed", "question": []},
        "costs": [{**about_turn, "total_cost": 1}],
        "group_by": ["session"],
        "time_zone": "UTC",
        "max_documents": 20,
        "types": ["human"],
        "data": [{"content": "slipped in"}],
        "tokens": [1],
        "known_revision": None,
        "after_position": None,
        "turn_id": victim.running_id,
        "text": "slipped in",
        "lease": 60.0,
        "epoch": None,
        "since": None,
        "until": None,
        "after_turn": None,
        "after": 0,
        "idle_for": "1 microsecond",
        "keep_messages": 1,
        "older_than": 0.0,
        "status": "failed",
        "query": "SECRET",
        "changes": {"title": "renamed", "metadata": {"a": None}},
        "metadata": {},
        "sort": "activity",
        "new_session_id": "copy",
        "token_hash": "0" * 64,
        "to_user_id": user_id,
        "from_user_id": victim.user_id,
        "alternative": victim.turn_id,
        "before": 1,
        "session_ids": [NAME],
        "user_ids": [user_id],
        "conversations": [
            {
                "session": {"session_id": NAME, "user_id": user_id},
                "turns": [{"id": str(uuid.uuid4()), "ordinal": 9}],
                "messages": [{**about_turn, "position": 9, "type": "human", "data": {"content": "slipped in"}}],
            }
        ],
        "n": 1,
        "extra_role": "authenticated",
    }
    if name in by_name:
        value = by_name[name]
        return [value] if function == "chat_history_feedback_sent" and name == "feedback" else value
    defaults: dict[str, Any] = {
        "uuid": victim.message_id,
        "uuid[]": [str(uuid.uuid4())],
        "text": "x",
        "text[]": ["x"],
        "boolean": False,
        "json": {"id": victim.message_id, "session_id": NAME},
        "jsonb": {"role": "user", "content": "slipped in"},
        "json[]": [{"content": "x"}],
        "integer": 1,
        "bigint": 1,
        "double precision": 1.0,
        "numeric": 1,
    }
    return defaults.get(kind)


def _unnamed(kind: str, victim: Victim, user_id: str | None) -> Any:
    """An argument of a function that is a part of others: they have no names."""
    return {
        "uuid": victim.key, "uuid[]": [victim.message_id], "text": user_id, "text[]": ["human"], "boolean": False,
        "json": {"id": victim.turn_id, "status": "failed"}, "json[]": [{"content": "slipped in"}],
        "integer": 1, "bigint": 1, "double precision": 1.0, "numeric": 1,
        "jsonb": [{"role": "user", "content": "slipped in"}],
    }.get(kind)  # fmt: skip
