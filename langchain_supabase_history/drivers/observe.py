"""What an operation reports of itself: a log line, a call of `on_operation`, an OpenTelemetry span.

Names, numbers and classes of errors only: no text of a message, no id, no secret.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Final

from ..core.call import Json
from ..records import Operation

OnOperation = Callable[[Operation], None]

logger: Final = logging.getLogger("langchain_supabase_history.operations")


class Meter:
    """Counts the tries of one operation, and the bytes of arguments and answers."""

    __slots__ = ("received", "sent", "tries")

    def __init__(self) -> None:
        self.tries: int = 0
        self.sent: int = 0
        self.received: int = 0


@contextmanager
def observe(function: str, hook: OnOperation | None) -> Iterator[Meter | None]:
    """Measure an operation and report it. Gives None, and costs next to nothing, where nobody listens.

    Args:
        function: The SQL function that is called.
        hook: The application's `on_operation`.
    """
    tracer = _tracer()
    if hook is None and tracer is None and not logger.isEnabledFor(logging.DEBUG):
        yield None
        return
    meter, error = Meter(), None
    started = time.perf_counter()
    with _span(tracer, function) as span:
        try:
            yield meter
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            milliseconds = (time.perf_counter() - started) * 1000
            name = function.removeprefix("chat_history_")
            operation = Operation(name, milliseconds, meter.tries, meter.sent, meter.received, error)
            if span is not None:
                _describe(span, function, operation)
            _report(operation, hook)


def _report(operation: Operation, hook: OnOperation | None) -> None:
    logger.debug(
        "%s: %.1f ms, %d tries, %d bytes sent, %d received%s",
        operation.name,
        operation.milliseconds,
        operation.tries,
        operation.bytes_sent,
        operation.bytes_received,
        f", {operation.error}" if operation.error else "",
    )
    if hook is not None:
        try:
            hook(operation)
        except Exception:  # the application's own code; the operation must not fail because of it
            logger.exception("on_operation raised")


def size_of(values: Iterable[Any]) -> int:
    """How many bytes arguments or answers have as text, about."""
    total = 0
    for value in values:
        if isinstance(value, Json):
            total += len(value.text)
        elif isinstance(value, str):
            total += len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, (list, tuple)):
            total += size_of(value)
        elif isinstance(value, (bytes, bytearray)):
            total += len(value)
        elif value is not None:
            total += len(str(value))
    return total


@cache
def _tracer() -> Any:
    """OpenTelemetry's tracer, where its API is installed; it makes no spans until the application configures it."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer("langchain_supabase_history")


def _span(tracer: Any, function: str) -> AbstractContextManager[Any]:
    if tracer is None:
        return nullcontext()
    from opentelemetry.trace import SpanKind

    span: AbstractContextManager[Any] = tracer.start_as_current_span(
        function, kind=SpanKind.CLIENT, record_exception=False, set_status_on_exception=False
    )
    return span


def _describe(span: Any, function: str, operation: Operation) -> None:
    if not span.is_recording():
        return
    from opentelemetry.trace import Status, StatusCode

    span.set_attributes(
        {
            "db.system.name": "postgresql",
            "db.stored_procedure.name": function,
            "chat_history.tries": operation.tries,
            "chat_history.bytes_sent": operation.bytes_sent,
            "chat_history.bytes_received": operation.bytes_received,
        }
    )
    if operation.error is not None:
        span.set_attribute("error.type", operation.error)
        span.set_status(Status(StatusCode.ERROR, operation.error))
