"""The sum of several workers' metrics.

Counters and histograms are summed over all workers, dead ones included, and never step down. Of a gauge only the living count,
and ``GAUGES`` says how.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample as Line

from serving.snapshots import (
    Family,
    Sample,
    SampleKey,
    Snapshot,
    Supervision,
    accumulates,
    is_creation_time,
    sample_key,
)

Rule = Callable[[Sequence[float], int], float]
"""Makes one value from those of the living workers that have one, and the number of living workers."""


def total(values: Sequence[float], workers: int) -> float:
    """Workers share the work: what they hold adds up."""
    del workers
    return math.fsum(values)


def greatest(values: Sequence[float], workers: int) -> float:
    """All say the same, but for a moment."""
    del workers
    return max(values)


def least(values: Sequence[float], workers: int) -> float:
    """The one that is worst off counts."""
    del workers
    return min(values)


def everywhere(values: Sequence[float], workers: int) -> float:
    """0 unless every worker says otherwise."""
    return min(values) if len(values) == workers else 0.0


GAUGES: Mapping[str, Rule] = {
    "driftwheel_requests_in_flight": total,
    "driftwheel_queued_rows": total,
    "driftwheel_event_loop_tasks": total,
    "driftwheel_model_version_loaded": everywhere,
    "driftwheel_candidate_weight": greatest,
    "driftwheel_ready": least,
    "process_virtual_memory_bytes": total,
    "process_resident_memory_bytes": total,
    "process_open_fds": total,
    "process_max_fds": least,
    "process_start_time_seconds": least,
    "python_info": greatest,
}
"""How each gauge is made from the workers' own. One that is not named here is summed; tests want every one named."""


@dataclass(slots=True)
class _Merged:
    """One family on its way to the sum."""

    family: Family
    lines: dict[SampleKey, tuple[Sample, list[float]]] = field(
        default_factory=dict[SampleKey, tuple[Sample, list[float]]]
    )

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.lines.setdefault(sample_key(sample), (sample, []))[1].extend(sample.parts)


class Sum(Collector):
    """The sum over workers, for prometheus_client to write out.

    Args:
        living: A snapshot of every living worker.
        supervision: What the supervisor tells.
    """

    def __init__(self, living: Sequence[Snapshot], supervision: Supervision) -> None:
        self._living = living
        self._supervision = supervision

    def collect(self) -> Iterable[Metric]:
        """Every family, once."""
        merged: dict[str, _Merged] = {}
        for snapshot in (*self._living, self._supervision.families):
            for family in snapshot:
                merged.setdefault(family.name, _Merged(family)).add(family.samples)
        for one in merged.values():
            metric = Metric(one.family.name, one.family.documentation, one.family.kind)
            metric.samples = [
                Line(sample.name, sample.labels, self._value(one.family, sample, values))
                for sample, values in one.lines.values()
            ]
            yield metric
        yield from supervised(self._supervision)

    def _value(self, family: Family, sample: Sample, values: list[float]) -> float:
        if accumulates(family, sample):
            return math.fsum(values)
        if is_creation_time(family, sample):
            return min(values)
        rule = greatest if family.kind in {"info", "stateset"} else GAUGES.get(family.name, total)
        return rule(values, len(self._living))


def supervised(supervision: Supervision) -> Iterable[Metric]:
    """What a server says of its workers."""
    yield GaugeMetricFamily("driftwheel_workers", "Processes that should share the port.", supervision.workers)
    yield GaugeMetricFamily("driftwheel_workers_up", "Processes that answer on the port.", supervision.up)
    yield CounterMetricFamily(
        "driftwheel_worker_restarts", "Processes that died and were started again.", supervision.restarts
    )
