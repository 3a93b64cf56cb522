"""What the wheel decided, for Prometheus: drift, quality, retrains, verdicts and versions.

Made from the ledger, the rollouts and the bundles' manifests when a scrape asks. Who decided may have been a command that
ended long ago, and counters go on after a restart where they were.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from driftwheel.bundle import bundle_folder, read_manifest
from driftwheel.contracts import Manifest
from driftwheel.errors import BundleError, DataError, NotFoundError, RolloutError
from driftwheel.files import is_locked
from driftwheel.rollout import Rollout, list_rollouts, read_rollout
from driftwheel.settings import Settings
from monitoring.canary.looks import newest_look
from monitoring.ledger import Ledger
from monitoring.ledger_facts import Facts, ModelFacts
from monitoring.segments import moment
from monitoring.told_metrics import expected_quality, recommendations

STATUSES = ("stable", "drift", "broken data", "not enough rows")
DECISIONS = ("HOLD", "STEP", "PROMOTE", "ABORT")
_PREFIX = "driftwheel_"

_log = structlog.get_logger()


class WheelMetrics(Collector):
    """The wheel's metrics. Called from one thread at a time.

    Args:
        settings: Where the home is.

    Raises:
        DataError: The ledger cannot be used. At a scrape the same: it fails, which an alert on ``up`` tells.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = Ledger(settings.ledger)
        self._facts = Facts()
        self._manifests: dict[Path, Manifest] = {}

    def describe(self) -> Iterable[Metric]:
        """Nothing: registration must not read a ledger of years."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything that is known now."""
        self._facts.follow(self._ledger)
        self._take_in_looks()
        readable = GaugeMetricFamily(
            f"{_PREFIX}rollout_readable", "1 if the rollout file can be read.", labels=["model"]
        )
        rollouts: list[Rollout] = []
        for model in list_rollouts(self._settings.rollouts):
            rollout = self._rollout(model)
            readable.add_metric([model], rollout is not None)
            rollouts += [rollout] if rollout else []
        yield readable
        yield from _counters(self._facts)
        yield from _moments(self._facts)
        yield from _drift(self._facts)
        yield from _quality(self._facts)
        decisions = [(model, one.drift) for model, one in sorted(self._facts.models.items()) if one.drift is not None]
        yield from expected_quality(decisions)
        yield from recommendations(decisions)
        yield from _trials(self._facts, rollouts)
        yield from _versions(self._manifests_of(rollouts))
        running = GaugeMetricFamily(f"{_PREFIX}retrain_running", "1 while a retrain is going on.", labels=["model"])
        for model in sorted({*self._facts.models, *(rollout.model for rollout in rollouts)}):
            running.add_metric([model], is_locked(self._settings.runtime / f"retrain-{model}.lock"))
        yield running

    def _take_in_looks(self) -> None:
        """The judge's newest looks, most of which say nothing new and are not in the ledger."""
        for model, one in self._facts.models.items():
            try:
                found = newest_look(self._settings.looks, model)
            except DataError as error:
                _log.warning("wheel_metrics.look_not_read", model=model, reason=error.message)
                continue
            if (
                found is not None
                and one.verdict_at is not None
                and (at := moment(found.at).timestamp()) > one.verdict_at
            ):
                one.verdict, one.verdict_at = found.payload, at

    def _rollout(self, model: str) -> Rollout | None:
        """None where it cannot be read: the other models' metrics must not go with it."""
        try:
            return read_rollout(self._settings.rollouts, model)
        except (RolloutError, NotFoundError) as error:
            _log.warning("wheel_metrics.rollout_not_read", model=model, reason=error.message)
            return None

    def _manifests_of(self, rollouts: Iterable[Rollout]) -> list[tuple[str, int, Manifest | None]]:
        named = [(one.model, version) for one in rollouts for version in one.versions]
        return [(model, version, self._manifest(model, version)) for model, version in named]

    def _manifest(self, model: str, version: int) -> Manifest | None:
        """None where it cannot be read, which is a metric of its own."""
        folder = bundle_folder(self._settings.models, model, version)
        if folder not in self._manifests:  # bundles never change
            try:
                self._manifests[folder] = read_manifest(folder)
            except (BundleError, NotFoundError) as error:
                _log.warning("wheel_metrics.bundle_not_read", model=model, version=version, reason=error.message)
                return None
        return self._manifests[folder]


def _counters(facts: Facts) -> Iterator[Metric]:
    entries = CounterMetricFamily(f"{_PREFIX}ledger_entries", "Entries of the ledger.", labels=["model", "kind"])
    for labels, count in sorted(facts.entries.items()):
        entries.add_metric(labels, count)
    yield entries
    for name, what, label, counts, known in (
        ("drift_decisions", "Drift decisions by what they said.", "status", facts.drifts, STATUSES),
        ("verdicts", "The judge's verdicts that are in the ledger.", "decision", facts.verdicts, DECISIONS),
        ("gate_decisions", "New versions by what the gate said.", "outcome", facts.gates, ("passed", "refused")),
    ):
        family = CounterMetricFamily(f"{_PREFIX}{name}", what, labels=["model", label])
        for model in sorted(facts.models):
            for value in known:  # at 0 as well: the first of its kind is an increase, too
                family.add_metric([model, value], counts[model, value])
        yield family
    retrains = CounterMetricFamily(
        f"{_PREFIX}retrains", "Retrains by what set them off and how they ended.", labels=["model", "reason", "outcome"]
    )
    for labels, count in sorted(facts.retrains.items()):
        retrains.add_metric(labels, count)
    yield retrains
    spent = CounterMetricFamily(
        f"{_PREFIX}retrain_spent_seconds", "How long retrains took that have ended, together.", labels=["model"]
    )
    for model, one in sorted(facts.models.items()):
        spent.add_metric([model], one.retrains_s)
    yield spent


def _moments(facts: Facts) -> Iterator[Metric]:
    kinds: dict[str, tuple[str, Callable[[ModelFacts], float | None]]] = {
        "drift_last_success": ("When the drift job last came to a decision.", lambda one: one.drift_at),
        "verdict_last": ("When the judge last looked.", lambda one: one.verdict_at),
        "gate_last": ("When the gate last judged a new version.", lambda one: one.gate_at),
        "rollout_last_change": ("When a rollout last changed.", lambda one: one.rollout_at),
        "retrain_last_start": ("When a retrain last started.", lambda one: one.retrain_started_at),
        "retrain_last_finish": ("When a retrain last ended, however.", lambda one: one.retrain_finished_at),
        "retrain_last_success": ("When a retrain last did its work.", lambda one: one.retrain_success_at),
    }
    for name, (what, when) in kinds.items():
        family = GaugeMetricFamily(f"{_PREFIX}{name}_timestamp_seconds", what, labels=["model"])
        for model, one in sorted(facts.models.items()):
            if (at := when(one)) is not None:
                family.add_metric([model], at)
        yield family


def _drift(facts: Facts) -> Iterator[Metric]:
    status = GaugeMetricFamily(
        f"{_PREFIX}drift_status", "1 for what the newest drift decision says.", labels=["model", "status"]
    )
    wanted = GaugeMetricFamily(
        f"{_PREFIX}drift_retrain_wanted",
        "1 if the newest drift decision asks for a retrain, and none has done its work since.",
        labels=["model"],
    )
    windows = GaugeMetricFamily(f"{_PREFIX}drift_windows", "Windows of the newest drift decision.", labels=["model"])
    rows = GaugeMetricFamily(f"{_PREFIX}drift_window_rows", "Rows of its newest window.", labels=["model"])
    faults = GaugeMetricFamily(f"{_PREFIX}drift_faults", "Faults of the data that it found.", labels=["model"])
    labels = ["model", "version", "monitor", "group"]
    score = GaugeMetricFamily(
        f"{_PREFIX}drift_score",
        "A monitor's statistic: a divergence in nats, or a difference of shares.",
        labels=labels,
    )
    p_value = GaugeMetricFamily(f"{_PREFIX}drift_p_value", "Its chance when nothing has changed.", labels=labels)
    drifted = GaugeMetricFamily(f"{_PREFIX}drift_monitor_drifted", "1 if the monitor drifts.", labels=labels)
    for model, one in sorted(facts.models.items()):
        if one.drift is None:
            continue
        decision, seen = one.drift["decision"], one.drift["windows"]
        for value in STATUSES:
            status.add_metric([model, value], decision["status"] == value)
        wanted.add_metric([model], decision["retrain"] and not _answered(one))
        windows.add_metric([model], decision["windows"])
        rows.add_metric([model], seen[-1]["rows"] if seen else 0)
        faults.add_metric([model], len(decision["faults"]))
        for outcome in decision["outcomes"]:
            of = [model, str(one.drift["version"]), outcome["monitor"], outcome["group"]]
            score.add_metric(of, outcome["statistic"])
            p_value.add_metric(of, outcome["p_value"])
            drifted.add_metric(of, outcome["drifted"])
    yield from (status, wanted, windows, rows, faults, score, p_value, drifted)


def _answered(one: ModelFacts) -> bool:
    """Whether a retrain has come after the newest drift decision: until the next one, nobody knows whether it helped."""
    return one.drift_at is not None and one.retrain_success_at is not None and one.retrain_success_at > one.drift_at


def _quality(facts: Facts) -> Iterator[Metric]:
    """Realized loss by version and arm: ``all`` is the drift job's newest window, the others are the judge's arms."""
    labels = ["model", "version", "arm"]
    loss = GaugeMetricFamily(f"{_PREFIX}quality_loss", "Mean loss of labelled predictions.", labels=labels)
    labelled = GaugeMetricFamily(f"{_PREFIX}quality_labels", "Labelled predictions behind it.", labels=labels)
    reference = GaugeMetricFamily(
        f"{_PREFIX}quality_reference_loss", "Mean loss of the version's held-out rows.", labels=["model", "version"]
    )
    down = GaugeMetricFamily(f"{_PREFIX}quality_down", "1 if the newest drift decision says so.", labels=["model"])
    for model, one in sorted(facts.models.items()):
        for version, arm, mean, count in _arms(one.verdict):
            loss.add_metric([model, version, arm], mean)
            labelled.add_metric([model, version, arm], count)
        if one.drift is None:
            continue
        down.add_metric([model], one.drift["decision"]["quality_down"])
        quality = next((w["quality"] for w in reversed(one.drift["windows"]) if w["quality"] is not None), None)
        if quality is not None:
            version = str(one.drift["version"])
            labelled.add_metric([model, version, "all"], quality["labelled"])
            if quality["window_mean"] is not None:
                loss.add_metric([model, version, "all"], quality["window_mean"])
            if quality["reference_mean"] is not None:
                reference.add_metric([model, version], quality["reference_mean"])
    yield from (loss, labelled, reference, down)


def _arms(verdict: dict[str, Any] | None) -> Iterator[tuple[str, str, float, int]]:
    """Version, arm, mean loss and labels of the arms that the judge last compared."""
    if verdict is None:
        return
    evidence = verdict["evidence"]
    for arm, version in (("control", evidence["stable_version"]), ("candidate", evidence["candidate_version"])):
        losses = evidence[arm]["losses"]
        if losses["labelled"]:
            yield str(version), arm, losses["loss_sum"] / losses["labelled"], losses["labelled"]


def _trials(facts: Facts, rollouts: Iterable[Rollout]) -> Iterator[Metric]:
    stable = GaugeMetricFamily(f"{_PREFIX}stable_version", "The version in service.", labels=["model"])
    candidate = GaugeMetricFamily(f"{_PREFIX}candidate_version", "The version on trial; 0: none.", labels=["model"])
    weight = GaugeMetricFamily(f"{_PREFIX}rollout_weight", "Its share of traffic by rollout.", labels=["model"])
    paused = GaugeMetricFamily(f"{_PREFIX}rollout_paused", "1 while the trial is paused.", labels=["model"])
    since = GaugeMetricFamily(
        f"{_PREFIX}rollout_step_timestamp_seconds", "When the trial's newest step began.", labels=["model"]
    )
    judge = GaugeMetricFamily(
        f"{_PREFIX}judge_state", "1 for the newest verdict about the trial going on.", labels=["model", "decision"]
    )
    for rollout in rollouts:
        of = [rollout.model]
        stable.add_metric(of, rollout.stable)
        candidate.add_metric(of, rollout.candidate or 0)
        weight.add_metric(of, rollout.weight)
        paused.add_metric(of, rollout.state == "paused")
        if rollout.candidate is not None and (began := rollout.stepped_at or rollout.started_at):
            since.add_metric(of, moment(began).timestamp())
        known = facts.models.get(rollout.model, ModelFacts()).verdict
        about = known["evidence"]["candidate_version"] if known else None
        current = known["verdict"]["decision"] if known and about == rollout.candidate else None
        for decision in DECISIONS:
            judge.add_metric([rollout.model, decision], decision == current)
    yield from (stable, candidate, weight, paused, since, judge)


def _versions(manifests: Iterable[tuple[str, int, Manifest | None]]) -> Iterator[Metric]:
    labels = ["model", "version"]
    readable = GaugeMetricFamily(f"{_PREFIX}bundle_readable", "1 if its manifest can be read.", labels=labels)
    created = GaugeMetricFamily(f"{_PREFIX}model_created_timestamp_seconds", "When it was exported.", labels=labels)
    until = GaugeMetricFamily(
        f"{_PREFIX}model_data_until_timestamp_seconds", "The newest row that it learned from.", labels=labels
    )
    rows = GaugeMetricFamily(f"{_PREFIX}model_training_rows", "Rows that it learned from.", labels=labels)
    test = GaugeMetricFamily(
        f"{_PREFIX}model_test_metric", "What it reached on rows held out.", labels=[*labels, "metric"]
    )
    for model, version, manifest in manifests:
        of = [model, str(version)]
        readable.add_metric(of, manifest is not None)
        if manifest is None:
            continue
        created.add_metric(of, moment(manifest.created_at).timestamp())
        if manifest.training.data_until is not None:
            until.add_metric(of, moment(manifest.training.data_until).timestamp())
        rows.add_metric(of, manifest.training.rows)
        for metric, value in sorted(manifest.metrics.items()):
            test.add_metric([*of, metric], value)
    yield from (readable, created, until, rows, test)
