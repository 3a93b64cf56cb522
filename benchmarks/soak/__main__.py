"""Mixed load over all protocols and endpoints while versions switch and clients leave: nothing may leak, fail or be lost.

Run with ``python -m benchmarks.soak --minutes 10``; exit code 1 where something grew, failed or was lost.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from benchmarks.models import make_factor_bundle
from benchmarks.rivals.base import START_TIMEOUT_S, ServerProcess
from benchmarks.soak.client import CANCELLED, OK
from benchmarks.soak.watch import Check, Sample, sample, verdict
from benchmarks.tools.report import add_results_option, console, line_charts, write_json
from driftwheel.rollout import promote, serve_stable, start_candidate
from driftwheel.settings import Settings, load_settings
from serving.runtime import server_address
from tests.bundles import make_churn_bundle

WARM_UP_S = 60.0
"""Not judged: caches fill, the allocator finds its size."""


def main() -> None:
    """Soak, print, write the results."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        settings = _prepared(Path(folder), options.workers)
        server = ServerProcess()
        log = Path(folder) / "server.log"
        server.launch([sys.executable, "-m", "driftwheel", "serve"], log, env=settings.child_environment())
        try:
            url, target = _await_up(server, settings)
            samples, switches, clients = _soak(server, settings, url, target, options)
        finally:
            server.stop()
        faults = [line for line in log.read_text(errors="replace").splitlines() if "error" in line.lower()]
    outcomes, versions = _collected(clients)
    judged = [one for one in samples if one.at_s >= min(WARM_UP_S, options.minutes * 15)]
    failed = sum(count for (_, outcome), count in outcomes.items() if outcome not in (OK, CANCELLED))
    checks = verdict(judged, failed, switches, len(versions))
    checks.append(Check("error lines in the server's log", 0, len(faults), "none", not faults))
    show(outcomes, checks, faults)
    path = write_json(
        options.results,
        "soak",
        {
            "options": vars(options),
            "checks": [asdict(one) for one in checks],
            "outcomes": [[*key, count] for key, count in outcomes.items()],
            "server_log": faults[:50],
            "samples": [asdict(one) for one in samples],
        },
    )
    line_charts(path.with_suffix(".png"), "The server under the soak", _panels(samples))
    console().print(f"written to {options.results}: {path.name}, {path.with_suffix('.png').name}")
    sys.exit(int(not all(one.passed for one in checks)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of load (default: 10)")
    parser.add_argument("--per-s", type=float, default=200, help="calls a second, all clients together (default: 200)")
    parser.add_argument("--clients", type=int, default=2, help="load processes (default: 2)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server (default: 1)")
    parser.add_argument(
        "--cancel-share", type=float, default=0.02, help="of calls, cancelled under way (default: 0.02)"
    )
    parser.add_argument("--switch-every-s", type=float, default=5, help="a change of the rollout (default: 5)")
    add_results_option(parser)
    return parser.parse_args()


def _prepared(folder: Path, workers: int) -> Settings:
    """A home with two versions of a rating model and a churn model, version 1 in service."""
    settings = load_settings(home=folder / "home", log_level="warning", serving={"port": 0, "workers": workers})
    for version in (1, 2):
        make_factor_bundle(settings.models, version)
    make_churn_bundle(settings.models, 1)
    for name in ("mf", "churn"):
        serve_stable(settings.rollouts, name, 1, by="soak", now=_now())
    return settings


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _await_up(server: ServerProcess, settings: Settings) -> tuple[str, str]:
    give_up = time.monotonic() + START_TIMEOUT_S
    while (address := server_address(settings)) is None:
        server.check_alive()
        if time.monotonic() > give_up:
            raise RuntimeError("the server did not announce itself")
        time.sleep(0.1)
    return address.url, address.target


def switches(settings: Settings) -> Iterator[None]:
    """Changes of the rollout, one for each step: a trial begins, the candidate is promoted, and back again."""
    stable, other = 1, 2
    while True:
        start_candidate(settings.rollouts, "mf", other, steps=(0.5, 1.0), by="soak", now=_now())
        yield
        promote(settings.rollouts, "mf", by="soak", now=_now())
        stable, other = other, stable
        yield


def _soak(
    server: ServerProcess, settings: Settings, url: str, target: str, options: argparse.Namespace
) -> tuple[list[Sample], int, list[subprocess.Popen[str]]]:
    """Load, switch and sample until the clients are done."""
    seconds = options.minutes * 60
    clients = [_client(target, number, seconds, options) for number in range(options.clients)]
    samples: list[Sample] = []
    switched, changes = 0, switches(settings)
    started = time.monotonic()
    try:
        while (elapsed := time.monotonic() - started) < seconds:
            server.check_alive()
            if elapsed >= (switched + 1) * options.switch_every_s:
                next(changes)
                switched += 1
            samples.append(sample(url, server.pids(), elapsed))
            _progress(samples[-1], switched)
            time.sleep(max(0.0, 1.0 - (time.monotonic() - started - elapsed)))
        for client in clients:
            client.wait(timeout=60)
    finally:
        for client in clients:
            client.kill()
    return samples, switched, clients


def _client(target: str, number: int, seconds: float, options: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.soak.client", target, "--seconds", str(seconds), "--seed", str(number)]
    command += ["--per-s", str(options.per_s / options.clients), "--cancel-share", str(options.cancel_share)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _progress(one: Sample, switched: int) -> None:
    if int(one.at_s) % 30 == 0:
        console().print(
            f"{one.at_s:5.0f} s: {one.rss_mib:.0f} MiB RSS, {one.threads} threads, {one.open_files} files, "
            f"{one.tasks:.0f} tasks, {switched} switches",
            style="dim",
        )


def _collected(clients: Sequence[subprocess.Popen[str]]) -> tuple[Counter[tuple[str, str]], set[int]]:
    """Outcomes of all clients together, and the versions that they saw."""
    outcomes: Counter[tuple[str, str]] = Counter()
    versions: set[int] = set()
    for client in clients:
        assert client.stdout is not None  # noqa: S101 (it is a pipe)
        text = client.stdout.read()
        if client.returncode != 0:
            outcomes["load process", f"ended with code {client.returncode}"] += 1
            continue
        found = json.loads(text)
        versions |= set(found["versions"])
        for name, outcome, count in found["outcomes"]:
            outcomes[name, outcome] += count
    return outcomes, versions


def show(outcomes: Counter[tuple[str, str]], checks: Sequence[Check], faults: Sequence[str]) -> None:
    """Calls by action, what failed, and the verdict."""
    table = Table("action", title="Calls")
    for heading in ("ok", "cancelled", "failed"):
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(name for name, _ in outcomes):
        ok, cancelled = outcomes[name, OK], outcomes[name, CANCELLED]
        failed = sum(count for (one, _), count in outcomes.items() if one == name) - ok - cancelled
        table.add_row(name, f"{ok:,}", f"{cancelled:,}", f"[red]{failed:,}[/]" if failed else "0")
    console().print(table)
    for (name, outcome), count in outcomes.most_common():
        if outcome not in (OK, CANCELLED):
            console().print(f"{count}x {name}: {outcome}", style="red", markup=False)
    for line in faults[:10]:
        console().print(f"server: {line}", style="red", markup=False)
    table = Table("", "first quarter", "last quarter", "allowed", "", title="Verdict")
    for one in checks:
        mark = "[green]ok[/]" if one.passed else "[red]FAILED[/]"
        table.add_row(one.name, f"{one.first:,.1f}", f"{one.last:,.1f}", one.allowed, mark)
    console().print(table)


def _panels(samples: Sequence[Sample]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    times = [one.at_s / 60 for one in samples]

    def line(name: str) -> tuple[list[float], list[float]]:
        return times, [float(getattr(one, name)) for one in samples]

    return {
        "memory in MiB": {"RSS": line("rss_mib"), "PSS": line("pss_mib")},
        "threads, open files": {"threads": line("threads"), "open files": line("open_files")},
        "tasks of the event loop": {"tasks": line("tasks")},
    }


if __name__ == "__main__":
    main()
