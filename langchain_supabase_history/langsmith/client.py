"""LangSmith beside the history: links to traces, feedback, and the data of root runs, through LangSmith's own SDK.

What a conversation waits for never passes here: turns carry what LangChain's tracer has in memory (`turns.py`). Reads
go through the endpoints that stay after 31 January 2027, which take project ids and not names.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from ..core.settings import network_fault
from ..errors import Forbidden, HistoryError, InvalidInput, NotConfigured, NotFound, Unavailable
from ..records import Turn

if TYPE_CHECKING:
    from langsmith import Client, Langsmith
    from langsmith.schemas import Feedback as SentFeedback
    from langsmith.types.run import Run

logger: Final = logging.getLogger(__name__)

_CONNECT_MS: Final = 2000
_READ_MS: Final = 5000
_SENDING: Final = 8.0  # seconds that one call may spend on sending feedback
_PAGE: Final = 100
_RETRIES: Final = 8  # of reads; each waits as long as Retry-After says, up to a minute


class LangSmith:
    """A LangSmith workspace, as the environment names it (`LANGSMITH_API_KEY`, `LANGSMITH_ENDPOINT`), or a client does.

    Made without I/O; shared by all views of a store. Project names are resolved to ids once.

    Args:
        client: The application's own `langsmith.Client`. By default one that gives up after seconds.
    """

    def __init__(self, client: Client | None = None) -> None:
        self._given = client
        self._client = client
        self._reader: Langsmith | None = None
        self._projects: dict[str, str] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the clients that were made here, not the application's own. Used again, it makes new ones."""
        with self._lock:
            client, reader = self._client, self._reader
            self._client, self._reader = self._given, None
        if reader is not None:
            reader.close()
        if client is not None and client is not self._given:
            client.close(timeout=0)

    @property
    def client(self) -> Client:
        """The client that writes, made at first use.

        Raises:
            NotConfigured: There is no key, and the application gave no client of its own.
        """
        with self._lock:
            if self._client is None:
                from langsmith import Client
                from langsmith.schemas import LangSmithInfo
                from urllib3 import Retry

                # `info` is given so that it is not asked for; nothing of it decides anything here.
                client = Client(
                    timeout_ms=(_CONNECT_MS, _READ_MS),
                    retry_config=Retry(0),
                    auto_batch_tracing=False,
                    info=LangSmithInfo(),
                )
                if client.api_key is None and getattr(client, "_profile_auth", None) is None:
                    client.close(timeout=0)  # not kept, for a key may come later: Streamlit reads its secrets late
                    raise NotConfigured(
                        "LangSmith was asked without a key.",
                        advice="Set LANGSMITH_API_KEY (LangSmith: Settings > API Keys).",
                    )
                client.session.hooks["response"].append(_only_json)
                self._client = client
            return self._client

    @property
    def reader(self) -> Langsmith:
        """The client that reads runs. It waits where LangSmith limits the rate, as long as that says."""
        with self._lock:
            if self._reader is None:
                from langsmith import Langsmith

                base = self.client.api_url.rstrip("/").removesuffix("/v1").removesuffix("/api")
                workspace = self.client.workspace_id
                self._reader = Langsmith(
                    api_key=self.client.api_key,
                    base_url=base,
                    tenant_id=str(workspace) if workspace else None,
                    max_retries=_RETRIES,
                    timeout=60,
                )
            return self._reader

    def project_id(self, name: str) -> str:
        """The id of a project; asked for once.

        Raises:
            NotFound: There is no project of this name.
            Unavailable, Forbidden: See `errors.py`.
        """
        if name not in self._projects:
            with asking(f"the project {name!r}"):
                self._projects[name] = str(self.client.read_project(project_name=name).id)
        return self._projects[name]

    def trace_url(self, turn: Turn) -> str | None:
        """The address of a turn's trace in LangSmith; None where it has none.

        Raises:
            InvalidInput: It is no `Turn`.
            HistoryError: LangSmith did not answer.
        """
        if not isinstance(turn, Turn):
            raise InvalidInput(f"turn must be a Turn, got {type(turn).__name__}.")
        if turn.trace_id is None or turn.project is None:
            return None
        with asking("the address of a trace"):
            reply = self.reader.with_options(max_retries=1, timeout=_READ_MS / 1000).runs.get_url(
                turn.run_id or turn.trace_id,
                project_id=self.project_id(turn.project),
                trace_id=turn.trace_id,
                start_time=turn.metadata.get("trace_started_at") or _iso(turn.started_at),
            )
        return reply.url

    # --- feedback

    def send(self, unsent: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send feedback to LangSmith; the outcomes are what `chat_history_feedback_sent` takes. Never raises.

        Where LangSmith cannot be reached, the rest waits for the next time.
        """
        outcomes: list[dict[str, Any]] = []
        end = time.monotonic() + _SENDING
        for row in unsent:
            if outcomes and time.monotonic() > end:
                break
            mark = {"session_id": row["session_id"], "id": row["id"], "updated_at": row["updated_at"]}
            try:
                self._send_one(row)
            except Exception as error:  # whatever the SDK raises; the feedback is stored, and it is for later
                refused = _refused(error)
                logger.warning("LangSmith did not take feedback %s: %s", row["key"][:100], type(error).__name__)
                if not refused:
                    break
                mark["refused"] = True
            outcomes.append(mark)
        return outcomes

    def _send_one(self, row: dict[str, Any]) -> None:
        given = {"score": row["score"], "value": (row["value"] or {}).get("value"), "comment": row["comment"]}
        ways: list[Callable[[], Any]] = [lambda: self._create(row, given), lambda: self._update(row, given)]
        if row["sent_at"] is not None:
            ways.reverse()
        from langsmith.utils import LangSmithConflictError, LangSmithNotFoundError

        try:
            ways[0]()
        except (LangSmithConflictError, LangSmithNotFoundError):  # it is there already, or not there any more
            ways[1]()

    def _create(self, row: dict[str, Any], given: dict[str, Any]) -> None:
        started = row["run_started_at"]
        # With the run's id alone it is sent now, and an error is seen; with a trace id it would wait in a queue.
        self.client.create_feedback(
            run_id=row["run_id"],
            key=row["key"],
            feedback_id=row["id"],
            stop_after_attempt=1,
            session_id=self.project_id(row["project"]),
            **given,
            start_time=datetime.fromisoformat(started) if started else None,
        )

    def _update(self, row: dict[str, Any], given: dict[str, Any]) -> None:
        self.client.update_feedback(row["id"], **given)

    def feedback_on(self, run_ids: Sequence[str]) -> Iterator[SentFeedback]:
        """What LangSmith knows of feedback on these runs."""
        for start in range(0, len(run_ids), _PAGE // 2):
            part = run_ids[start : start + _PAGE // 2]
            with asking("feedback"):
                found: list[SentFeedback] = _patient(partial(self._feedback_page, part))
                yield from found

    def _feedback_page(self, run_ids: Sequence[str]) -> list[SentFeedback]:
        return list(self.client.list_feedback(run_ids=run_ids))

    # --- runs

    def root_runs(
        self,
        project: str,
        since: datetime,
        selects: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        until: datetime | None = None,
    ) -> Iterator[Run]:
        """The root runs of a project since a time, page by page, in LangSmith's order, with the fields named."""
        options: dict[str, Any] = {"ids": list(ids)} if ids is not None else {}
        if until is not None:
            options["max_start_time"] = until
        with asking(f"the runs of project {project!r}"):
            yield from self.reader.runs.query(
                project_ids=[self.project_id(project)],
                is_root=True,
                min_start_time=since,
                page_size=_PAGE,
                include_subtree_usage=True,
                selects=list(selects),  # type: ignore[arg-type]
                **options,
            )


@dataclass
class CostFiller:
    """Fills in what turns cost, as LangSmith computed it, for those whose cost is not known yet.

    Args:
        smith: Whom to ask.
        uncosted: Gives the turns after a turn's id, a page at a time (`chat_history_uncosted_turns`).
        save: Writes costs down (`chat_history_set_costs`).
    """

    smith: LangSmith
    uncosted: Callable[[UUID | None], list[dict[str, Any]]]
    save: Callable[[list[dict[str, Any]]], int]
    filled: int = field(default=0, init=False)

    def run(self) -> int:
        """Fill in all that LangSmith knows, and return for how many turns.

        Raises:
            HistoryError: LangSmith or the database cannot be reached or refuses.
        """
        _ = self.smith.client  # without a key that is an error, also where nothing is left to ask for
        after: UUID | None = None
        while rows := self.uncosted(after):
            after = UUID(rows[-1]["turn_id"])
            by_project: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                by_project.setdefault(row["project"], []).append(row)
            for project, turns in by_project.items():
                self._fill(project, turns)
        return self.filled

    def _fill(self, project: str, rows: list[dict[str, Any]]) -> None:
        for start in range(0, len(rows), _PAGE):
            part = {row["run_id"]: row for row in rows[start : start + _PAGE]}
            since = min(datetime.fromisoformat(row["started_at"]) for row in part.values())
            costs = [
                {
                    **{name: part[run.id][name] for name in ("session_id", "user_id", "turn_id")},
                    "total_cost": run.total_cost,
                }
                for run in self.smith.root_runs(project, _earlier(since), ["ID", "TOTAL_COST"], ids=list(part))
                if run.id in part and run.total_cost
            ]
            if costs:
                self.filled += self.save(costs)


def _earlier(at: datetime) -> datetime:
    return at - timedelta(hours=1)  # a turn is written down to begin after its root run, and clocks differ


def _iso(at: datetime | None) -> str:
    from langsmith._types import omit

    return omit if at is None else at.isoformat()  # type: ignore[return-value]


def _only_json(response: Any, *args: Any, **kwargs: Any) -> None:
    """Lets nothing pass for LangSmith's answer that is none: the page of a proxy or a portal, with status 200."""
    if response.ok and response.content:
        response.json()


# --- what the SDK raises ----------------------------------------------------------------------------------------------


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error of the SDK's, of which one family hides it in what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        status = getattr(seen, "status_code", None) or getattr(getattr(seen, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        seen = seen.__cause__ or seen.__context__
    return None


def _refused(error: BaseException) -> bool:
    """Whether LangSmith has looked at it and does not want it, so that sending it again at once is of no use."""
    status = 404 if isinstance(error, NotFound) else _status(error)
    return status is not None and 400 <= status < 500 and status not in (401, 403, 408, 425, 429)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turns what the SDK raises into errors of this library.

    Raises:
        Forbidden: The key is refused.
        NotFound: LangSmith has no such thing.
        Unavailable: It cannot be reached, limits the rate for too long, or answers something else.
    """
    try:
        yield
    except HistoryError:
        raise
    except Exception as error:
        status = _status(error)
        code = None if status is None else str(status)
        if status in (401, 403):
            raise Forbidden(
                f"LangSmith refused to give {what}.",
                code=code,
                advice="Check LANGSMITH_API_KEY, LANGSMITH_ENDPOINT (its region) and LANGSMITH_WORKSPACE_ID.",
            ) from error
        if status == 404 or type(error).__name__ == "LangSmithNotFoundError":
            raise NotFound(f"LangSmith does not know {what}.", code=code) from error
        if status is None and (fault := network_fault(error)) is not None:
            raise fault from error
        raise Unavailable(
            f"LangSmith did not give {what}: " + (f"it answered {code}." if code else f"{type(error).__name__}."),
            code=code,
            advice="Check LANGSMITH_ENDPOINT and the network; then try again.",
        ) from error


def _patient(ask: Callable[[], Any]) -> Any:
    """Ask again where LangSmith limits the rate or stumbles, as long as Retry-After says, else with growing pauses."""
    import tenacity

    def may_mend(error: BaseException) -> bool:
        status = _status(error)
        return status is None or status in (408, 425, 429) or status >= 500

    def pause(state: tenacity.RetryCallState) -> float:
        error: BaseException | None = state.outcome.exception() if state.outcome else None
        while error is not None:
            headers = getattr(getattr(error, "response", None), "headers", {})
            try:
                return min(float(headers["retry-after"]), 60.0)
            except (KeyError, ValueError):
                error = error.__cause__ or error.__context__
        return min(0.5 * 2.0 ** (state.attempt_number - 1), 8.0)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_mend),
        stop=tenacity.stop_after_attempt(_RETRIES),
        wait=pause,
        reraise=True,
    )(ask)
