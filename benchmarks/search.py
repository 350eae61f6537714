"""What the search index costs an append, and what a search costs with it and without: `python -m benchmarks.search`."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

import click
from langchain_core.messages import AIMessage, HumanMessage

from langchain_supabase_history import HistoryStore, migrate
from tests import servers

WORDS = [f"word{n}" for n in range(20_000)]
SESSIONS = 50


def timed(call: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


@click.command()
@click.option("--rounds", default=600, show_default=True, help="Appends of each kind.")
@click.option("--seed", default=1, show_default=True)
def main(rounds: int, seed: int) -> None:
    """Append a question and an answer of 60 words each, in turn with the index and without, and search among them."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        server = stack.enter_context(servers.postgres(servers.postgres_bin(servers.POSTGRES_VERSION)))
        server.execute(servers.SUPABASE_ROLES)
        stores: dict[str, HistoryStore] = {}
        for name, search in (("without", None), ("with", "simple")):
            url = server.url(server.create_database())
            migrate(url, search=search)
            stores[name] = stack.enter_context(HistoryStore.from_postgres(url))
        appended: dict[str, list[float]] = {name: [] for name in stores}
        for n in range(rounds):
            turn = [kind(" ".join(rng.choices(WORDS, k=60))) for kind in (HumanMessage, AIMessage)]
            for name, store in rng.sample(list(stores.items()), 2):
                session = f"s{n % SESSIONS}"
                appended[name].append(timed(lambda s=store, i=session, t=turn: s.append(i, t)))  # type: ignore[misc]
        found = {
            name: statistics.median(timed(lambda s=store: s.search(rng.choice(WORDS))) for _ in range(20))  # type: ignore[misc]
            for name, store in stores.items()
        }
        ratios = [a / b for a, b in zip(appended["with"], appended["without"], strict=True)]
        for name in stores:
            click.echo(f"{name} index: append {statistics.median(appended[name]):.2f} ms, search {found[name]:.1f} ms")
        click.echo(f"append with the index to without: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
