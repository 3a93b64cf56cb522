"""Whether a new version may enter: a pure function of two sets of metrics."""

from dataclasses import dataclass

from driftwheel.contracts import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class GateBounds:
    """What a version must reach by itself, and how much worse than the champion it may be on the same rows."""

    max_rmse: float = 1.10
    """For ratings split by time, where most test users are new; the mean alone gives 1.03 to 1.14 on MovieLens."""
    rmse_tolerance: float = 0.002
    min_ndcg: float = 0.001
    """Of NDCG@10, which judges what is trained to rank: below it, next to nobody finds anything in their list."""
    ndcg_tolerance: float = 0.002
    min_auc: float = 0.80
    auc_tolerance: float = 0.002


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """``reasons`` says what was compared and how it came out, for passes and failures alike."""

    passed: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    metric: str
    sign: int
    """1 where higher is better, -1 where lower is."""
    bound: float
    tolerance: float


def decide(
    task: Task,
    candidate: dict[str, float],
    champion: dict[str, float] | None,
    bounds: GateBounds = GateBounds(),
    *,
    ranks: bool = False,
) -> GateVerdict:
    """Judge a candidate.

    Args:
        candidate: Its metrics on the test split of its own data.
        champion: The champion's metrics on the same rows, None when no version is in service.
        ranks: The candidate is trained to rank: it is judged by that, whatever the champion was trained for.
    """
    rule = _rule(task, bounds, ranks=ranks)
    value = candidate.get(rule.metric)
    if value is None or value != value:  # noqa: PLR0124 (NaN)
        return GateVerdict(passed=False, reasons=(f"the candidate has no {rule.metric}",))
    checks = [_check(rule, value, rule.bound, 0.0, "its bound")]
    if champion is None:
        checks.append((True, "no champion to compare with"))
    elif (other := champion.get(rule.metric)) is None or other != other:  # noqa: PLR0124 (NaN)
        checks.append((True, f"the champion has no {rule.metric} on these rows"))
    else:
        checks.append(_check(rule, value, other, rule.tolerance, "the champion's"))
    return GateVerdict(passed=all(passed for passed, _ in checks), reasons=tuple(reason for _, reason in checks))


def _rule(task: Task, bounds: GateBounds, *, ranks: bool) -> _Rule:
    if ranks:
        return _Rule("ndcg_at_10", 1, bounds.min_ndcg, bounds.ndcg_tolerance)
    if task == "rating":
        return _Rule("rmse", -1, bounds.max_rmse, bounds.rmse_tolerance)
    return _Rule("auc", 1, bounds.min_auc, bounds.auc_tolerance)


def _check(rule: _Rule, value: float, limit: float, tolerance: float, whose: str) -> tuple[bool, str]:
    passed = rule.sign * (value - limit) >= -tolerance
    relation = "is no worse than" if passed else "is worse than"
    margin = f" by more than {tolerance:g}" if tolerance and not passed else ""
    return passed, f"{rule.metric} {value:.4f} {relation} {whose} {limit:.4f}{margin}"
