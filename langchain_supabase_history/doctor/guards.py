"""The doctor's reading of `chat_history_guards()`: what roles may really do, and row level security. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from .environment import Finding, fault, ok, warning

# What a turn needs, whichever way it goes.
_FUNCTIONS: Final = (
    "append",
    "clear",
    "delete_session",
    "get_session",
    "key",
    "list_messages",
    "list_turns",
    "load",
    "lock",
    "owner",
    "user",
)
_TABLES: Final = ("sessions", "messages", "turns", "feedback")
_ROWS: Final = ("select", "insert", "update", "delete")
_OWNERS_ALONE: Final = ("grant", "open_shares", "index_search", "open_conversations")
# The policies' expressions without blanks, as PostgreSQL writes them back.
_OWNER: Final = "(user_id=(selectchat_history_user()aschat_history_user))"
_IN_OWN_SESSION: Final = (
    "({owner}and(exists(selectfromchat_history_sessionsswhere((s.session_key={table}.session_key)"
    "and(s.user_id={table}.user_id)))))"
)


def _short(name: str) -> str:
    return name.removeprefix("chat_history_")


def _allowed(relation: dict[str, Any], role: str) -> tuple[str, ...]:
    if role in ("public", "anon"):
        return ()
    if not relation["name"].startswith("chat_history_"):  # a view that chat_history_open_conversations has made
        return _ROWS
    return ("select",) if relation["kind"] == "v" or _short(relation["name"]) == "migrations" else _ROWS


def grants(facts: dict[str, Any], fix: str) -> Iterator[Finding]:
    """What each of Supabase's roles may do too much or too little, as PostgreSQL decides it.

    Args:
        facts: The answer of `chat_history_guards()`.
        fix: The statement that puts the grants right.
    """
    sound = True
    inherited: set[str] = set()  # what PUBLIC may, everybody may: said once
    for role in facts["roles"]:
        excess = _excess(facts, role) - inherited
        if role == "public":
            inherited = excess
        name = "PUBLIC (everybody)" if role == "public" else role
        if excess and role == "service_role":
            yield warning("grants", f"{name} may {_listed(excess)}: more than is needed.", fix)
        elif excess:
            yield fault("grants", f"{name} may {_listed(excess)}.{_why(excess)}", fix)
        if lacking := _lacking(facts, role):
            yield fault("grants", f"{name} may not {_listed(lacking)}.", fix)
        sound = sound and not excess and not lacking
    if sound:
        roles = [role for role in facts["roles"] if role != "public"]
        yield ok(
            "grants",
            f"As they should be for {', '.join(roles)}."
            if roles
            else "None of Supabase's roles is here: only the owner, and whom it granted to, may use the tables.",
        )


def _excess(facts: dict[str, Any], role: str) -> set[str]:
    found = {
        f"{privilege} {relation['name']}"
        for relation in facts["relations"]
        for privilege in relation["privileges"][role]
        if privilege not in _allowed(relation, role)
    }
    for function in facts["functions"]:
        closed = role in ("public", "anon") or _short(function["name"]) in _OWNERS_ALONE
        if role == "anon" and function["name"] == "chat_history_shared":
            closed = not facts.get("shares_open", False)
        if closed and role in function["execute"]:
            found.add(f"execute {function['name']}")
    return found


def _lacking(facts: dict[str, Any], role: str) -> set[str]:
    if role in ("public", "anon"):
        return set()
    return {
        f"{privilege} {relation['name']}"
        for relation in facts["relations"]
        if _short(relation["name"]) in _TABLES
        for privilege in _ROWS
        if privilege not in relation["privileges"][role]
    } | {
        f"execute {function['name']}"
        for function in facts["functions"]
        if _short(function["name"]) in _FUNCTIONS and role not in function["execute"]
    }


def _listed(privileges: set[str]) -> str:
    """ "select, insert on messages, turns; execute load" """
    on: dict[str, list[str]] = {}
    for privilege, name in sorted(each.split() for each in privileges):
        on.setdefault(name, []).append(privilege)
    groups: dict[str, list[str]] = {}
    for name, kinds in on.items():
        groups.setdefault(", ".join(kinds), []).append(name)
    parts = []
    for what, names in groups.items():
        some = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
        parts.append(f"{what}{'' if what == 'execute' else ' on'} {', '.join(some)}")
    return "; ".join(parts)


def _why(excess: set[str]) -> str:
    return " Truncate is not held back by row level security." if any(e.startswith("truncate") for e in excess) else ""


def row_level_security(facts: dict[str, Any], schema: str) -> Iterator[Finding]:
    """Whether every table has row level security on, with the policy that was made for it and no other.

    Args:
        facts: The answer of `chat_history_guards()`.
    """
    found = [finding for relation in facts["relations"] for finding in _relation(relation, schema)]
    yield from found
    if not found:
        yield ok("row level security", "On for every table, each with its policy: a user's rows are that user's.")


def _relation(relation: dict[str, Any], schema: str) -> Iterator[Finding]:
    name = relation["name"]
    table = f'"{schema}".{name}'
    owner = f'user_id = (select "{schema}".chat_history_user())'
    check = owner
    if _short(name) != "sessions":
        sessions = f'"{schema}".chat_history_sessions'
        check += (
            f" and exists (select from {sessions} s where s.session_key = {name}.session_key "
            f"and s.user_id = {name}.user_id)"
        )
    create = f"create policy owner on {table} using ({owner}) with check ({check});"
    if relation["kind"] == "v":
        if not relation["row_security"]:
            yield fault(
                "row level security",
                f"View {name} reads past row level security.",
                f"alter view {table} set (security_invoker = true);",
            )
        return
    if not relation["row_security"]:
        yield fault(
            "row level security",
            f"Off for {name}: whoever may read it reads everybody's rows.",
            f"alter table {table} enable row level security;",
        )
    if _short(name) not in _TABLES:
        return
    policies = {policy["name"]: policy for policy in relation["policies"]}
    ours = policies.pop("owner", None)
    if ours is None:
        yield fault(
            "row level security", f"The policy of {name} is gone: signed-in users see none of their rows.", create
        )
    elif not _is_ours(ours, name):
        yield fault(
            "row level security", f"The policy of {name} was changed.", f"drop policy owner on {table}; {create}"
        )
    for other, policy in policies.items():
        drop = f'drop policy "{other}" on {table};'
        if policy["permissive"]:
            yield fault(
                "row level security",
                f"A further policy {other!r} on {name} lets more through than a user's own rows.",
                drop,
            )
        else:
            yield warning(
                "row level security", f"A further policy {other!r} on {name} hides rows from their users.", drop
            )


def _is_ours(policy: dict[str, Any], table: str) -> bool:
    using, check = ("".join(str(policy[part]).lower().split()) for part in ("using", "check"))
    wanted = _OWNER if _short(table) == "sessions" else _IN_OWN_SESSION.format(owner=_OWNER, table=table)
    ours = using == _OWNER and check == wanted
    return ours and policy["command"] == "*" and policy["permissive"] and policy["roles"] == "{0}"
