"""All operations on conversations together: what a store has, and what is built upon a store is given."""

from __future__ import annotations

from .analytics import AnalyticsOperations
from .branches import Branches
from .feedback import FeedbackOperations
from .handover import Handover
from .messages import Messages
from .retention import Retention
from .search import Search
from .sessions import Sessions
from .sharing import Sharing
from .streams import Streams
from .turns import Turns
from .usage import UsageOperations


class Conversations(
    Messages,
    Turns,
    Streams,
    Sessions,
    Search,
    Branches,
    Handover,
    Sharing,
    UsageOperations,
    AnalyticsOperations,
    FeedbackOperations,
    Retention,
):
    """Conversations in a database, whatever way it is reached."""
