"""All operations on conversations together: what a store has, and what is built upon a store is given."""

from __future__ import annotations

from .feedback import FeedbackOperations
from .messages import Messages
from .retention import Retention
from .sessions import Sessions
from .turns import Turns
from .usage import UsageOperations


class Conversations(Messages, Turns, Sessions, UsageOperations, FeedbackOperations, Retention):
    """Conversations in a database, whatever way it is reached."""
