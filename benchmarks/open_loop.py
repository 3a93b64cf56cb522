"""Latency, processor time and memory at fixed arrival rates: shares of what TorchServe can do at its best.

Run with ``python -m benchmarks.open_loop``. TorchServe's best rate is measured first, in a closed loop; then each server in
turn gets calls at 30% and 70% of it, as a Poisson process that is the same for all and waits for nobody. Latency counts
from the moment that a call was due. docs/benchmarks.md says more.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.rivals.base import Rival, Workplace
from benchmarks.rivals.entrants import FULL, TORCHSERVE, check_scores, chosen, everybody, prepare
from benchmarks.tools.arrivals import OpenLoop, open_loop
from benchmarks.tools.h2load import closed_loop, require_h2load
from benchmarks.tools.probing import probe
from benchmarks.tools.processes import cpu_seconds, memory
from benchmarks.tools.report import Target, add_results_option, bar_charts, console, show_targets, write_json

CASES = {"1 pair": 1, "1000 pairs": 1000}


@dataclass(frozen=True, slots=True)
class Taken:
    """One measurement, or the median of several."""

    server: str
    case: str
    share: float
    """Of TorchServe's best rate."""
    due_per_s: float
    answered_per_s: float
    failed: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    late_p99_ms: float
    generator_share: float
    server_cpu_us: float
    rss_mib: float
    pss_mib: float


def main() -> None:
    """Measure, print, and write the results; exit code 1 where a target is missed and ``--strict`` was given."""
    options = _options()
    require_h2load()
    rivals = chosen(options.servers)
    shares = [float(share) for share in options.shares.split(",")]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        place = prepare(Path(folder))
        best = _best_rates(place, options)
        taken = [
            one
            for number in range(options.rounds)
            for rival in rivals
            for one in _round(rival, place, number, best, shares, options)
        ]
    medians = median_of(taken)
    targets = list(targets_of(medians))
    show(medians)
    met = show_targets(targets)
    results: dict[str, Any] = {"options": vars(options), "torchserve_best_per_s": best}
    results |= {"medians": [asdict(one) for one in medians], "targets": [asdict(one) for one in targets]}
    path = write_json(options.results, "open_loop", results | {"rounds": [asdict(one) for one in taken]})
    chart(medians, path.with_suffix(".png"))
    console().print(f"written to {options.results}: {path.name}, {path.with_suffix('.png').name}")
    sys.exit(int(options.strict and not met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="of each rate in each round (default: 8)")
    parser.add_argument("--warm-up", type=float, help="seconds before each rate (default: what each server needs)")
    parser.add_argument("--rounds", type=int, default=3, help="in which each server runs once (default: 3)")
    parser.add_argument("--shares", default="0.3,0.7", help="of TorchServe's best rate (default: 0.3,0.7)")
    parser.add_argument("--best", help="skip finding it: requests/s for 1 pair and 1000 pairs, like 9000,4500")
    parser.add_argument("--servers", default="driftwheel,torchserve", help=f"of {', '.join(everybody())}; or all")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    add_results_option(parser)
    return parser.parse_args()


def _best_rates(place: Workplace, options: argparse.Namespace) -> dict[str, float]:
    """TorchServe's rate in a closed loop of 64 calls, for each case; the median of three runs once it is warm."""
    if options.best:
        return dict(zip(CASES, map(float, options.best.split(",")), strict=True))
    (rival,) = chosen("torchserve") or sys.exit("without TorchServe, say --best, for example --best 9000,4500")
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    console().print(f"finding the best rate of {rival.name} …", style="dim")

    def rate(rows: int, seconds: float) -> float:
        call = rival.call(rows)
        return closed_loop(
            rival.target, call, seconds=seconds, in_flight=64, folder=folder, cpu_seconds=lambda: 0.0
        ).requests_per_s

    try:
        rival.start(Workplace(folder, place.models, place.bundle))
        best: dict[str, float] = {}
        for case, rows in CASES.items():
            rate(rows, rival.warm_up_s if options.warm_up is None else options.warm_up)
            best[case] = statistics.median(rate(rows, options.seconds / 2) for _ in range(3))
        return best
    finally:
        rival.stop()


def _round(
    rival: Rival,
    place: Workplace,
    number: int,
    best: dict[str, float],
    shares: Sequence[float],
    options: argparse.Namespace,
) -> Iterator[Taken]:
    """Start one server, measure all cases at all rates, stop it."""
    folder = Path(tempfile.mkdtemp(prefix=f"round-{number}-", dir=place.folder))
    console().print(f"round {number + 1} of {options.rounds}: {rival.name} …", style="dim")
    try:
        rival.start(Workplace(folder, place.models, place.bundle))
        for case, rows in CASES.items():
            check_scores(rival, probe(rival.target, rival.call(rows)), rows, place)
            for share in shares:
                result = _at_rate(rival, rows, best[case] * share, number, options)
                held = memory(rival.pids())
                yield Taken(
                    server=rival.name,
                    case=case,
                    share=share,
                    rss_mib=held.rss,
                    pss_mib=held.pss,
                    **{name: value for name, value in asdict(result).items() if name != "due"},
                )
    finally:
        rival.stop()


def _at_rate(rival: Rival, rows: int, per_s: float, number: int, options: argparse.Namespace) -> OpenLoop:
    call = rival.call(rows)
    usage: Callable[[], float] = lambda: cpu_seconds(rival.pids())  # noqa: E731 (a name for a long argument)
    warm_up_s = rival.warm_up_s if options.warm_up is None else options.warm_up
    open_loop(rival.target, call, per_s=per_s, seconds=warm_up_s, cpu_seconds=usage, seed=1000)
    return open_loop(rival.target, call, per_s=per_s, seconds=options.seconds, cpu_seconds=usage, seed=number)


def median_of(taken: Sequence[Taken]) -> list[Taken]:
    """The median of each number over the rounds, for each server, case and rate."""
    numbers = [field.name for field in fields(Taken) if field.type is float and field.name != "share"]
    groups: dict[tuple[str, str, float], list[Taken]] = {}
    for one in taken:
        groups.setdefault((one.server, one.case, one.share), []).append(one)
    return [
        Taken(*key, **{name: statistics.median(getattr(one, name) for one in group) for name in numbers})
        for key, group in groups.items()
    ]


def targets_of(medians: Sequence[Taken]) -> Iterator[Target]:
    """What has to be shown beside TorchServe."""
    found = {(one.server, one.case, one.share): one for one in medians}
    for (server, case, share), theirs in found.items():
        ours = found.get((FULL, case, share))
        if server != TORCHSERVE or ours is None:
            continue
        for name, value, bound in (
            ("p50", ours.p50_ms / theirs.p50_ms, 0.5),
            ("p99", ours.p99_ms / theirs.p99_ms, 0.5),
            ("CPU per request", ours.server_cpu_us / theirs.server_cpu_us, 0.65),
            ("memory (PSS)", ours.pss_mib / theirs.pss_mib, 0.40),
        ):
            yield Target(f"{case} at {share:.0%}: {name}, of {TORCHSERVE}", value, "<=", bound)
        yield Target(f"{case} at {share:.0%}: failed calls", ours.failed, "<=", 0)


def show(medians: Sequence[Taken]) -> None:
    """A table, servers beside each other at each rate."""
    table = Table("case", "of best", "server", title="Open loop (Poisson arrivals), medians of the rounds")
    headings = (
        "due/s",
        "answered/s",
        "failed",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "CPU us",
        "PSS MiB",
        "sent late p99",
        "load CPU",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for one in sorted(medians, key=lambda one: (one.case, one.share, one.server)):
        rates = f"{one.due_per_s:,.0f}", f"{one.answered_per_s:,.0f}", f"{one.failed:.0f}"
        latencies = f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.p999_ms:.2f}"
        costs = (
            f"{one.server_cpu_us:.0f}",
            f"{one.pss_mib:.0f}",
            f"{one.late_p99_ms:.2f} ms",
            f"{one.generator_share:.0%}",
        )
        table.add_row(one.case, f"{one.share:.0%}", one.server, *rates, *latencies, *costs)
    console().print(table)


def chart(medians: Sequence[Taken], path: Path) -> None:
    """p50 and p99, a bar for each server, at each rate."""
    points = list(
        dict.fromkeys((one.case, one.share, one.due_per_s) for one in medians if one.server == medians[0].server)
    )
    found = {(one.server, one.case, one.share): one for one in medians}
    servers = list(dict.fromkeys(one.server for one in medians))
    labels = [f"{case}\n{rate:,.0f}/s ({share:.0%})" for case, share, rate in points]
    panels = [
        (heading, labels, {s: [getattr(found[s, case, share], name) for case, share, _ in points] for s in servers})
        for heading, name in (("p50 in ms", "p50_ms"), ("p99 in ms", "p99_ms"), ("CPU us per request", "server_cpu_us"))
    ]
    bar_charts(path, "The same arrival rates for all (less is better)", panels)


if __name__ == "__main__":
    main()
