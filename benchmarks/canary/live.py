"""Candidates of four kinds, released through the real server, judge and ledger under load.

Run with ``python -m benchmarks.canary.live``: a candidate that fails for some users, one that takes 30 ms more, one whose item
factors are shuffled, and one that is truly better. Exit code 1 where a verdict, a call or a rollback was not as it has to be.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import numpy as np
from onnx import helper
from rich.table import Table

from benchmarks.canary.slow import slow_nodes
from benchmarks.models import HIGH, ITEM_COUNT, LOW, USERS, Weights, make_factor_bundle, random_weights
from benchmarks.rivals.base import START_TIMEOUT_S, ServerProcess
from benchmarks.tools.report import add_results_option, console, write_json
from driftwheel.rollout import serve_stable, start_candidate
from driftwheel.settings import Settings, load_settings
from driftwheel.wheel.judging import look
from monitoring.canary.check import named
from monitoring.canary.judge import Verdict
from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.runtime import server_address

STEPS = (0.0, 0.1, 0.5, 1.0)
SHADOW = 0.5
NOISE = 0.3
"""The standard deviation of labels about the truth."""

WANTED = {"fails for some users": "ABORT", "slow": "ABORT", "shuffled items": "ABORT", "better": "PROMOTE"}
IN_FLIGHT_S = 0.1
"""A call that was under way when the rollout changed may be answered by what came after."""

CLIENTS = 4


@dataclass(slots=True)
class Seen:
    """What clients saw of one release."""

    calls: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])
    """By code."""
    versions: dict[int, str] = field(default_factory=dict[int, str])
    """The version that each user got last."""
    went_back: list[float] = field(default_factory=list[float])
    """When users that had had the candidate asked, and got stable."""
    last_candidate: float = 0.0
    """When the candidate's last answer was asked for. Seconds since the epoch."""


class Traffic:
    """Clients that score pairs, and send a label for each."""

    def __init__(self, url: str, target: str, truth: Weights) -> None:
        self._url, self._target, self._truth = url, target, truth
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.seen = Seen()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # A client has users of its own, so that the answers of one user come in order.
        users = np.arange(1 + seed, USERS + 1, CLIENTS)
        with grpc.insecure_channel(self._target) as channel, httpx.Client(base_url=self._url) as http:
            stub, labels = GRPCInferenceServiceStub(channel), []
            while not self._stop.is_set():
                user, item = int(rng.choice(users)), int(rng.integers(1, ITEM_COUNT + 1))
                if (one := self._ask(stub, user, item)) is not None:
                    labels.append({"prediction_id": one, "label": self._label(rng, user, item)})
                if len(labels) >= 100:
                    http.post("/v1/feedback", json={"feedback": labels}).raise_for_status()
                    labels = []

    def _label(self, rng: np.random.Generator, user: int, item: int) -> float:
        return float(np.clip(score(self._truth, user, item) + NOISE * rng.standard_normal(), LOW, HIGH))

    def _ask(self, stub: GRPCInferenceServiceStub, user: int, item: int) -> str | None:
        request = pb.ModelInferRequest(model_name="mf")
        for name, value in (("user_id", user), ("item_id", item)):
            tensor = request.inputs.add(name=name, datatype="INT64", shape=[1])
            tensor.contents.int64_contents.append(value)
        asked = time.time()
        try:
            answer = stub.ModelInfer(request, timeout=10)
        except grpc.RpcError as error:
            with self._lock:
                self.seen.calls += 1
                self.seen.failed[error.code().name] += 1
            return None
        with self._lock:
            self._note(user, answer.model_version, asked)
        return answer.id

    def _note(self, user: int, version: str, asked: float) -> None:
        seen = self.seen
        seen.calls += 1
        if version == "2":
            seen.last_candidate = max(seen.last_candidate, asked)
        if (seen.versions.get(user), version) == ("2", "1"):
            seen.went_back.append(asked)
        seen.versions[user] = version


def score(weights: Weights, user: int, item: int) -> float:
    """What a factorization gives, unclipped."""
    biases = weights["mean"] + weights["user_bias"][user] + weights["item_bias"][item]
    return float(biases + weights["users"][user] @ weights["items"][item])


def main() -> None:
    """Release each, print, write the results."""
    options = _options()
    rows = [release(kind, options) for kind in options.kinds]
    table = Table(
        *("candidate", "ms added", "p99, ms", "verdict", "because of", "seconds", "calls", "failed"),
        *("users that went back", "rollback, s"),
    )
    for row in rows:
        failed = ", ".join(f"{count} {name}" for name, count in row["failed"].items()) or "none"
        table.add_row(
            row["kind"],
            f"{row['added_ms']:.0f}",
            " -> ".join("-" if p99 is None else f"{p99:.1f}" for p99 in row["p99_ms"]),
            row["decision"],
            row["reason"],
            f"{row['seconds']:.0f}",
            str(row["calls"]),
            failed,
            str(row["went_back"]),
            "" if row["rollback_s"] is None else f"{row['rollback_s']:.2f}",
        )
    console().print(table)
    write_json(options.results, "canary_live", {"options": vars(options), "releases": rows})
    sys.exit(not all(row["as_wanted"] for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(WANTED), default=list(WANTED), help="(default: all)")
    parser.add_argument("--minutes", type=float, default=5, help="a release takes at most (default: 5)")
    add_results_option(parser)
    return parser.parse_args()


def release(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Release one candidate under load, and say what came of it."""
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        settings = load_settings(
            home=Path(folder) / "home", log_level="warning", serving={"port": 0, "backend": "onnx"}
        )
        truth, added_ms = _bundles(settings, kind)
        serve_stable(settings.rollouts, "mf", 1, by="live", now=_now())
        server = ServerProcess()
        command = [sys.executable, "-m", "driftwheel", "serve"]
        server.launch(command, Path(folder) / "server.log", env=settings.child_environment())
        try:
            url, target = _await_up(server, settings)
            row = _released(settings, kind, Traffic(url, target, truth), options.minutes * 60)
            return row | {"added_ms": added_ms}
        finally:
            server.stop()


def _released(settings: Settings, kind: str, traffic: Traffic, limit_s: float) -> dict[str, Any]:
    with traffic:
        time.sleep(2)
        start_candidate(settings.rollouts, "mf", 2, steps=STEPS, shadow=SHADOW, by="live", now=_now())
        began, changed = time.monotonic(), time.time()
        while True:
            time.sleep(0.5)
            verdict, rollout = look(settings, "mf")
            decision, reason = verdict.decision, verdict.reasons[0].partition(":")[0]
            changed = datetime.fromisoformat(rollout.updated_at).timestamp()
            if decision in ("ABORT", "PROMOTE") or time.monotonic() > began + limit_s:
                break
        seconds = time.monotonic() - began
        time.sleep(2)
    seen = traffic.seen
    rollback_s = max(seen.last_candidate - changed, 0.0) if decision == "ABORT" else None
    went_back = sum(asked < changed - IN_FLIGHT_S for asked in seen.went_back)
    injected = {"INTERNAL"} if kind == "fails for some users" else set[str]()
    fine = decision == WANTED[kind] and not went_back and set(seen.failed) <= injected
    return {
        "kind": kind,
        "decision": decision,
        "reason": reason if decision == "ABORT" else "",
        "seconds": seconds,
        "calls": seen.calls,
        "failed": dict(seen.failed),
        "went_back": went_back,
        "rollback_s": rollback_s,
        "p99_ms": _p99_ms(verdict),
        "as_wanted": fine and (rollback_s is None or rollback_s < 1.0),
    }


def _p99_ms(verdict: Verdict) -> list[float | None]:
    """What the judge last saw of control's latencies and the candidate's."""
    latency = named(verdict.checks, "latency")
    return [None if p99_us is None else p99_us / 1000 for p99_us in (latency.control, latency.candidate)]


def _bundles(settings: Settings, kind: str) -> tuple[Weights, float]:
    """Stable, and the candidate beside it; what labels come from, and how much longer a pair takes the candidate, ms."""
    rng = np.random.default_rng(0)
    truth = random_weights(rng)
    noise = rng.normal(0, 0.4, ITEM_COUNT + 1).astype(np.float32)
    noise[0] = 0
    stable = truth | {"item_bias": truth["item_bias"] + noise}
    candidate, nodes, added_ms = dict(stable), [], 0.0
    if kind == "better":
        candidate = truth
    elif kind == "shuffled items":
        candidate["items"] = np.concatenate([stable["items"][:1], rng.permutation(stable["items"][1:])])
    elif kind == "fails for some users":
        others = np.arange(USERS + 1)
        # Users whose position does not exist; none of those whom the golden requests ask for.
        others[10 : USERS - 10 : 20] = 10**9
        candidate["others"] = others
        nodes = [helper.make_node("Gather", ["others", "user_index"], ["other_user"])]
    elif kind == "slow":
        nodes, added_ms = slow_nodes(candidate)
    make_factor_bundle(settings.models, 1, weights=stable)
    make_factor_bundle(settings.models, 2, weights=candidate, nodes=nodes)
    return truth, added_ms


def _await_up(server: ServerProcess, settings: Settings) -> tuple[str, str]:
    give_up = time.monotonic() + START_TIMEOUT_S
    while (address := server_address(settings)) is None:
        server.check_alive()
        if time.monotonic() > give_up:
            raise RuntimeError("the server did not announce itself")
        time.sleep(0.1)
    return address.url, address.target


def _now() -> str:
    return datetime.now(UTC).isoformat()


if __name__ == "__main__":
    main()
