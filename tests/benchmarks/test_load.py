"""What the load benchmark makes of its rounds."""

import pytest

from benchmarks.load import Taken, log_targets
from benchmarks.rivals.entrants import FULL, NO_LOG


def taken(server: str, case: str, requests_per_s: float) -> Taken:
    return Taken(server, case, requests_per_s, p50_ms=1, p99_ms=1, cpu_us=1, generator_cpu_us=1, rss_mib=1, pss_mib=1)


def test_the_logs_cost_is_told_round_by_round():
    """The machine is half as fast in the second round, and slower still in one half of the third."""
    rates = ((950, 1000), (440, 500), (240, 400))
    rounds = [taken(*one) for full, without in rates for one in ((FULL, "1 pair", full), (NO_LOG, "1 pair", without))]
    (target,) = log_targets(rounds)
    assert (target.value, target.met) == (pytest.approx(0.88), False)


def test_without_both_servers_nothing_is_told():
    assert list(log_targets([taken(FULL, "1 pair", 950), taken(NO_LOG, "1000 pairs", 1000)])) == []
