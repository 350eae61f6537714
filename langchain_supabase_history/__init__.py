"""Durable conversations for LLM applications on Supabase.

The public names are loaded when they are first used: importing the package imports neither supabase nor psycopg.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.analytics import (
        Activity as Activity,
        Analytics as Analytics,
        DocumentUse as DocumentUse,
        FeedbackSummary as FeedbackSummary,
    )
    from .core.window import Window as Window
    from .errors import (
        Conflict as Conflict,
        Forbidden as Forbidden,
        HistoryError as HistoryError,
        InvalidInput as InvalidInput,
        InvalidMessage as InvalidMessage,
        InvalidSession as InvalidSession,
        NotConfigured as NotConfigured,
        NotFound as NotFound,
        NotInstalled as NotInstalled,
        NotSaved as NotSaved,
        OutboxFailed as OutboxFailed,
        StatementTimeout as StatementTimeout,
        StoreClosed as StoreClosed,
        Unavailable as Unavailable,
    )
    from .langchain.audit import TurnAudit as TurnAudit
    from .langchain.history import SupabaseChatMessageHistory as SupabaseChatMessageHistory
    from .langchain.runnable import RunnableWithHistory as RunnableWithHistory
    from .migrations import migrate as migrate
    from .operations.pages import aiterate as aiterate, iterate as iterate
    from .operations.streams import Delta as Delta
    from .records import (
        Alternative as Alternative,
        Feedback as Feedback,
        Operation as Operation,
        Page as Page,
        Pruned as Pruned,
        Reassigned as Reassigned,
        SearchHit as SearchHit,
        Session as Session,
        Share as Share,
        StoredMessage as StoredMessage,
        Turn as Turn,
        Usage as Usage,
    )
    from .store import HistoryStore as HistoryStore

_MODULES = {
    "core.analytics": "Activity Analytics DocumentUse FeedbackSummary",
    "core.window": "Window",
    "langchain.audit": "TurnAudit",
    "errors": "Conflict Forbidden HistoryError InvalidInput InvalidMessage InvalidSession NotConfigured NotFound "
    "NotInstalled NotSaved OutboxFailed StatementTimeout StoreClosed Unavailable",
    "langchain.history": "SupabaseChatMessageHistory",
    "migrations": "migrate",
    "operations.pages": "aiterate iterate",
    "operations.streams": "Delta",
    "records": "Alternative Feedback Operation Page Pruned Reassigned SearchHit Session Share StoredMessage Turn Usage",
    "langchain.runnable": "RunnableWithHistory",
    "store": "HistoryStore",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__version__ = "0.1.0"
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
