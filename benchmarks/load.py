"""Requests per second, latency, processor time and memory of Driftwheel beside other servers, under a closed loop.

Run with ``make bench`` or ``python -m benchmarks.load``. In each round every server runs alone, with the load generator on
the same cores; rounds are interleaved, medians are taken, and what counts is the ratio within one run: absolute numbers
belong to the machine of the moment. docs/benchmarks.md says who is compared and how.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.table import Table

from benchmarks.rivals.base import Rival, Workplace
from benchmarks.rivals.entrants import (
    BARE,
    CEILING,
    FULL,
    NO_LOG,
    PLAIN,
    TORCHSERVE,
    check_scores,
    chosen,
    everybody,
    prepare,
)
from benchmarks.tools.h2load import closed_loop, require_h2load
from benchmarks.tools.probing import probe
from benchmarks.tools.processes import cpu_seconds, memory
from benchmarks.tools.report import Target, add_results_option, bar_charts, console, show_targets, write_json

CASES = {"1 pair": 1, "1000 pairs": 1000}
DEFAULT_SERVERS = "driftwheel,bare,echo,grpc-aio,torchserve"


@dataclass(frozen=True, slots=True)
class Taken:
    """One measurement, or the median of several."""

    server: str
    case: str
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Processor time of all the server's processes for each request."""
    generator_cpu_us: float
    rss_mib: float
    pss_mib: float


def main() -> None:
    """Measure, print, and write the results; exit code 1 where a target is missed and ``--strict`` was given."""
    options = _options()
    require_h2load()
    rivals = chosen(options.servers)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        place = prepare(Path(folder))
        taken = [
            one
            for number in range(options.rounds)
            for rival in (rivals[::-1] if number % 2 else rivals)  # what one leaves behind burdens the other as often
            for one in _round(rival, place, number, options)
        ]
    medians = median_of(taken)
    targets = [*targets_of(medians), *log_targets(taken)]
    show(medians)
    met = show_targets(targets)
    path = write_json(
        options.results,
        "load",
        {
            "options": vars(options),
            "medians": [asdict(one) for one in medians],
            "targets": [asdict(one) for one in targets],
            "rounds": [asdict(one) for one in taken],
        },
    )
    chart(medians, path.with_suffix(".png"))
    console().print(f"written to {options.results}: {path.name}, {path.with_suffix('.png').name}")
    sys.exit(int(options.strict and not met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of each case in each round (default: 5)")
    parser.add_argument("--warm-up", type=float, help="seconds before each case (default: what each server needs)")
    parser.add_argument("--rounds", type=int, default=3, help="in which each server runs once (default: 3)")
    parser.add_argument("--in-flight", type=int, default=64, help="calls under way at once (default: 64)")
    parser.add_argument("--servers", default=DEFAULT_SERVERS, help=f"of {', '.join(everybody())}; or all")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    add_results_option(parser)
    return parser.parse_args()


def _round(rival: Rival, place: Workplace, number: int, options: argparse.Namespace) -> list[Taken]:
    """Start one server, measure all cases, stop it."""
    own = Workplace(Path(tempfile.mkdtemp(prefix=f"round-{number}-", dir=place.folder)), place.models, place.bundle)
    warm_up_s = rival.warm_up_s if options.warm_up is None else options.warm_up
    console().print(f"round {number + 1} of {options.rounds}: {rival.name} …", style="dim")
    try:
        rival.start(own)
        return [
            measure(rival, case, own, warm_up_s=warm_up_s, seconds=options.seconds, in_flight=options.in_flight)
            for case in CASES
        ]
    finally:
        rival.stop()


def measure(rival: Rival, case: str, place: Workplace, *, warm_up_s: float, seconds: float, in_flight: int) -> Taken:
    """See that a running server answers right, warm it up, and measure one case.

    Raises:
        RuntimeError: It answered something else, or not every call.
    """
    call = rival.call(CASES[case])
    check_scores(rival, probe(rival.target, call), CASES[case], place)
    for length in (warm_up_s, seconds):
        result = closed_loop(
            rival.target,
            call,
            seconds=length,
            in_flight=in_flight,
            folder=place.folder,
            cpu_seconds=lambda: cpu_seconds(rival.pids()),
        )
    held = memory(rival.pids())
    return Taken(
        server=rival.name,
        case=case,
        requests_per_s=result.requests_per_s,
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        cpu_us=result.server_cpu_us,
        generator_cpu_us=result.generator_cpu_us,
        rss_mib=held.rss,
        pss_mib=held.pss,
    )


def median_of(taken: Sequence[Taken]) -> list[Taken]:
    """The median of each number over the rounds, for each server and case."""
    numbers = [field.name for field in fields(Taken) if field.type is float]
    groups: dict[tuple[str, str], list[Taken]] = {}
    for one in taken:
        groups.setdefault((one.server, one.case), []).append(one)
    return [
        Taken(server, case, **{name: statistics.median(getattr(one, name) for one in group) for name in numbers})
        for (server, case), group in groups.items()
    ]


def targets_of(medians: Sequence[Taken]) -> Iterator[Target]:
    """What has to be shown, for the servers that took part."""
    found = {(one.server, one.case): one for one in medians}
    # For each case: at least so many times a plain server's and TorchServe's rate, and such a share of the ceiling's.
    for case, plain, torchserve, ceiling in (("1 pair", 3.5, 1.5, 0.55), ("1000 pairs", 2.5, 1.5, 0.30)):
        if (ours := found.get((FULL, case))) is None:
            continue
        for server, bound in ((PLAIN, plain), (TORCHSERVE, torchserve), (CEILING, ceiling), (BARE, 0.75)):
            if other := found.get((server, case)):
                yield Target(
                    f"{case}: requests/s, of {server}", ours.requests_per_s / other.requests_per_s, ">=", bound
                )
        if other := found.get((PLAIN, case)):
            yield Target(f"{case}: p99, of {PLAIN}", ours.p99_ms / other.p99_ms, "<=", 1.0)
        if other := found.get((TORCHSERVE, case)):
            yield Target(f"{case}: CPU per request, of {TORCHSERVE}", ours.cpu_us / other.cpu_us, "<=", 0.65)
            yield Target(f"{case}: memory (PSS), of {TORCHSERVE}", ours.pss_mib / other.pss_mib, "<=", 0.40)


def log_targets(taken: Sequence[Taken]) -> Iterator[Target]:
    """What the prediction log leaves of the rate: the median of what it leaves in each round, whose runs are neighbours.
    A tenth, which it may cost, is less than what the machine itself moves from round to round.
    """
    for case in CASES:
        ours, without = (
            [one.requests_per_s for one in taken if (one.server, one.case) == (server, case)]
            for server in (FULL, NO_LOG)
        )
        if ours and without:
            left = statistics.median(rate / other for rate, other in zip(ours, without, strict=True))
            yield Target(f"{case}: requests/s, of {NO_LOG}, in a round", left, ">=", 0.90)


def show(medians: Sequence[Taken], *, subject: str = FULL) -> None:
    """A table; the last column says how many times as fast one of the servers is."""
    found = {(one.server, one.case): one for one in medians}
    table = Table("case", "server", title="Closed loop, medians of the rounds")
    for heading in ("requests/s", "p50 ms", "p99 ms", "CPU us", "RSS MiB", "PSS MiB", f"{subject} is"):
        table.add_column(heading, justify="right")
    for case in CASES:
        ours = found.get((subject, case))
        for one in sorted((one for one in medians if one.case == case), key=lambda one: -one.requests_per_s):
            factor = f"{ours.requests_per_s / one.requests_per_s:.2f}x" if ours else ""
            numbers = f"{one.requests_per_s:,.0f}", f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.cpu_us:.0f}"
            table.add_row(case, one.server, *numbers, f"{one.rss_mib:.0f}", f"{one.pss_mib:.0f}", factor)
        table.add_section()
    console().print(table)


def chart(
    medians: Sequence[Taken], path: Path, *, title: str = "ModelInfer over gRPC, raw tensors, closed loop"
) -> None:
    """Requests per second and p99, a bar for each server and case."""
    servers = list(dict.fromkeys(one.server for one in medians))
    found = {(one.server, one.case): one for one in medians}
    panels = [
        (
            f"{case}: {heading}",
            servers,
            {heading: [getattr(found[server, case], name) for server in servers]},
        )
        for case in CASES
        for heading, name in (
            ("requests per second (more is better)", "requests_per_s"),
            ("p99 in ms (less)", "p99_ms"),
        )
    ]
    bar_charts(path, title, panels)


if __name__ == "__main__":
    main()
