"""One load process of the soak: calls at a fixed rate, 2% of them cancelled under way, and a count of how each ended."""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter

import grpc

from benchmarks.soak.actions import Action, Clients

_MOST_AT_ONCE = 500
"""Calls under way; more would mean that the server has stopped answering."""

OK, CANCELLED = "ok", "cancelled"


class Load:
    """Starts calls and counts outcomes, by action and outcome."""

    def __init__(self, rng: random.Random, cancel_share: float) -> None:
        self._rng = rng
        self._cancel_share = cancel_share
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._running: set[asyncio.Task[None]] = set()

    def start(self, name: str, action: Action) -> None:
        """Begin one call in the background."""
        if len(self._running) >= _MOST_AT_ONCE:
            self.outcomes[name, "not started: too many calls without an answer"] += 1
            return
        task = asyncio.create_task(self._one(name, action))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if self._rng.random() < self._cancel_share:
            asyncio.get_running_loop().call_later(self._rng.uniform(0, 0.004), task.cancel)

    async def finish(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _one(self, name: str, action: Action) -> None:
        try:
            await action()
        except asyncio.CancelledError:
            self.outcomes[name, CANCELLED] += 1
        except grpc.aio.AioRpcError as error:
            self.outcomes[name, f"{error.code().name}: {error.details()}"[:200]] += 1
        except Exception as error:  # noqa: BLE001 (whatever went wrong, the report names it)
            self.outcomes[name, f"{type(error).__name__}: {error}"[:200]] += 1
        else:
            self.outcomes[name, OK] += 1


async def run(options: argparse.Namespace) -> None:
    """For so many seconds; the counts go to standard output as JSON."""
    rng = random.Random(options.seed)
    versions: set[int] = set()
    load = Load(rng, options.cancel_share)
    async with Clients(options.target, rng, versions) as clients:
        actions = clients.actions()
        names = list(actions)
        weights = [weight for weight, _ in actions.values()]
        due = time.monotonic()
        end = due + options.seconds
        while due < end:
            name = rng.choices(names, weights)[0]
            load.start(name, actions[name][1])
            due += rng.expovariate(options.per_s)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await load.finish()
    counts = [[name, outcome, count] for (name, outcome), count in sorted(load.outcomes.items())]
    json.dump({"outcomes": counts, "versions": sorted(versions)}, sys.stdout)


def main() -> None:
    """Parse what the soak hands over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--per-s", type=float, required=True)
    parser.add_argument("--cancel-share", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
