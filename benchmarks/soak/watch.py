"""What the soak watches on the server, and its verdict."""

import statistics
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.tools.processes import memory, open_files, threads

BAD_CODES = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
"""gRPC's names, which the server's own counters bear for HTTP as well."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment."""

    at_s: float
    rss_mib: float
    pss_mib: float
    threads: int
    open_files: int
    tasks: float
    """Of the server's event loop."""
    dropped_rows: float
    """That the prediction log let go, so far."""
    bad_codes: float
    """Answers so far with a code that says that the server is at fault."""


def sample(url: str, pids: list[int], at_s: float) -> Sample:
    """Look at the server now."""
    totals = _metrics(url)
    held = memory(pids)
    return Sample(
        at_s=at_s,
        rss_mib=held.rss,
        pss_mib=held.pss,
        threads=threads(pids),
        open_files=open_files(pids),
        tasks=totals["tasks"],
        dropped_rows=totals["dropped"],
        bad_codes=totals["bad"],
    )


def _metrics(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 (our own server's URL)
        text = answer.read().decode()
    totals = {"tasks": 0.0, "dropped": 0.0, "bad": 0.0}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.name == "driftwheel_event_loop_tasks":
                totals["tasks"] += one.value
            elif one.name == "driftwheel_prediction_log_dropped_rows_total":
                totals["dropped"] += one.value
            elif one.name == "driftwheel_requests_total" and one.labels["code"] in BAD_CODES:
                totals["bad"] += one.value
    return totals


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    name: str
    first: float
    """The median of the first quarter, or what was wanted."""
    last: float
    """The median of the last quarter, or what came."""
    allowed: str
    passed: bool


def growth(samples: Sequence[Sample], name: str, *, share: float, slack: float) -> Check:
    """Whether a number grew from the first quarter to the last.

    Medians of quarters: a version that is loaded for a moment beside its successor is no growth, a leak is.

    Args:
        share: What it may grow by, of its first value.
        slack: What it may grow by besides, for small counts.
    """
    values = [float(getattr(one, name)) for one in samples]
    quarter = max(1, len(values) // 4)
    first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    allowed = f"<= {share:.0%} more" + (f", or {slack:g}" if slack else "")
    return Check(name.replace("_", " "), first, last, allowed, last <= first * (1 + share) + slack)


def verdict(samples: Sequence[Sample], failed: int, switches: int, versions: int) -> list[Check]:
    """Everything that has to hold, for the samples after the warm-up."""
    return [
        growth(samples, "rss_mib", share=0.05, slack=0),
        growth(samples, "pss_mib", share=0.05, slack=0),
        growth(samples, "threads", share=0, slack=2),
        growth(samples, "open_files", share=0.05, slack=5),
        growth(samples, "tasks", share=0.05, slack=5),
        Check("tasks are told by /metrics", 1, samples[-1].tasks, "some", samples[-1].tasks > 0),
        _none("failed calls", failed),
        # The most that any look showed: counters of a version go when it is retired.
        _none("answers with the server at fault", max(one.bad_codes for one in samples)),
        _none("dropped log rows", max(one.dropped_rows for one in samples)),
        Check("versions that answered", 2, versions, f"both, over {switches} switches", versions >= 2),
    ]


def _none(name: str, count: float) -> Check:
    return Check(name, 0, count, "none", count == 0)
