"""A version's way in: train, track, register, pass the gate, export, and enter service or a trial."""

from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import structlog

from driftwheel.bundle import Bundle, bundle_folder, read_bundle, read_manifest
from driftwheel.contracts import Signature, incompatibility
from driftwheel.errors import DataError, NotFoundError, RolloutError
from driftwheel.rollout import DEFAULT_STEPS, Rollout, read_rollout, serve_stable, start_candidate
from driftwheel.settings import Settings
from driftwheel.wheel.archive import archived_versions
from driftwheel.wheel.clock import now
from driftwheel.wheel.parameters import chosen_parameters
from driftwheel.wheel.progress import Reporter
from driftwheel.wheel.run_page import keep_page
from monitoring.ledger import Ledger

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data.dataset import Dataset
    from training.gate import GateBounds, GateVerdict
    from training.job import EpochEvent, TrainedModel
    from training.launch import Trained
    from training.logged_model import WriteGraph
    from training.tuning.best import Tuned


_MOST_SEEN = 0.01
"""The share of a test split that a champion may have trained on and still be measured by it."""

_USUAL_RATING_RANGE = 4.5
"""From half a star to five: what the gate's default bound on the RMSE is meant for."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A registered version and how the gate judged it. ``bundle`` is None where it was refused."""

    name: str
    version: int
    run_id: str
    metrics: dict[str, float]
    champion_metrics: dict[str, float] | None
    verdict: "GateVerdict"
    bundle: Bundle | None
    tuned: "Tuned | None" = None
    """Where its parameters come from, if they are not the defaults."""
    report: Path | None = None
    """Its training run on one page."""


def current_rollout(settings: Settings, name: str) -> Rollout | None:
    """A model's rollout; None where it has none yet."""
    try:
        return read_rollout(settings.rollouts, name)
    except NotFoundError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedVersion:
    """A registered version that no gate has judged yet."""

    name: str
    version: int
    run_id: str
    shipped: "TrainedModel"
    full: "Dataset"
    """What ``shipped`` was trained on."""
    config: "TrainConfig"
    write_graph: "WriteGraph"
    """Of ``shipped``; it was asked once already, where the run was not on record before."""
    tuned: "Tuned | None" = None
    report: Path | None = None


def make_version(
    settings: Settings,
    name: str,
    dataset: "Dataset",
    reporter: Reporter,
    *,
    estimator: str | None = None,
    base: "TrainConfig | None" = None,
) -> NewVersion:
    """Train on a dataset, put the run on record, register it, and export it if the gate lets it pass.

    ``parameters.chosen_parameters`` says what ``estimator`` and ``base`` lead to.

    The gate judges what training reaches on rows held out; the version is the same training on those rows as well.
    Every step finds what an interrupted predecessor finished, so calling it again goes on where that stopped.

    Raises:
        TrainingError: The training job failed.
        ExportError: An exported graph disagrees with the model.
    """
    made = train_version(settings, name, dataset, reporter, estimator=estimator, base=base)
    version, run_id, shipped = made.version, made.run_id, made.shipped
    champion = champion_metrics(settings, name, version, dataset, made.config)
    verdict = judge_version(settings, name, version, dataset, shipped, champion, reporter)
    bundle = None
    if verdict.passed:
        bundle = export_version(
            settings, name, version, run_id, shipped, made.full, reporter, write_graph=made.write_graph
        )
    return NewVersion(
        name=name,
        version=version,
        run_id=run_id,
        metrics=shipped.metrics,
        champion_metrics=champion,
        verdict=verdict,
        bundle=bundle,
        tuned=made.tuned,
        report=made.report,
    )


def train_version(
    settings: Settings,
    name: str,
    dataset: "Dataset",
    reporter: Reporter,
    *,
    estimator: str | None = None,
    base: "TrainConfig | None" = None,
) -> TrackedVersion:
    """The first half of ``make_version``: train, put the run on record, and register it.

    Raises:
        TrainingError: The training job failed.
        ConfigurationError: The tracking server or database does not answer.
    """
    from exporters.model_graph import graph_writer
    from training.data.refit import refit_dataset
    from training.mlflow_store import check_reachable
    from training.registry import Registry
    from training.tracking import track

    check_reachable(settings)  # before the training that it could not put on record
    full = refit_dataset(dataset)
    parameters = chosen_parameters(settings, name, dataset, reporter, estimator=estimator, base=base)
    tuned, config = parameters.tuned, parameters.config
    trained = _train(settings, name, dataset, full, reporter, config)
    shipped = trained.shipped
    with reporter.task(f"Tracking and registering {name}") as task:
        tags = tuned.tags if tuned else {}
        write_graph = graph_writer(shipped, full)  # what MLflow keeps answers as the bundle will
        run_id = track(trained, dataset, settings, full=full, write_graph=write_graph, tags=tags)
        registry = Registry(settings)
        version = registry.register(run_id, name, full, _describe(full, shipped.metrics))
        report = keep_page(settings, name, version, run_id)
        task.finish(f"version {version}, MLflow run {run_id[:8]}")
    return TrackedVersion(
        name=name,
        version=version,
        run_id=run_id,
        shipped=shipped,
        full=full,
        config=config,
        write_graph=write_graph,
        tuned=tuned,
        report=report,
    )


def _train(
    settings: Settings,
    name: str,
    dataset: "Dataset",
    full: "Dataset",
    reporter: Reporter,
    config: "TrainConfig",
) -> "Trained":
    from training.execution import execution_of
    from training.launch import train_and_refit

    epochs = config.epochs
    training = settings.training
    with reporter.task(f"Training {name} on {dataset.rows['train']:,} rows, {training.ranks} ranks") as task:

        def on_epoch(event: "EpochEvent") -> None:
            if event.valid_metric is None:
                task.update(event.epoch, epochs, f"on all {full.rows['train']:,} rows, epoch {event.epoch}")
            else:
                task.update(event.epoch, epochs, f"epoch {event.epoch}, validation {event.valid_metric:.4f}")

        trained = train_and_refit(
            dataset,
            full,
            jobs_folder=settings.jobs,
            ranks=training.ranks,
            seed=training.seed,
            timeout_s=training.timeout_s,
            execution=execution_of(training),
            config=config,
            on_epoch=on_epoch,
        )
        evaluated, shipped = trained.evaluated, trained.shipped
        task.finish(
            f"{len(evaluated.history)} epochs on {evaluated.device}, test {_shown(shipped.metrics)}; "
            f"then {shipped.refit_epochs} epochs on {shipped.refit_rows:,} rows"
        )
    return trained


def _shown(metrics: dict[str, float]) -> str:
    headline = [key for key in ("rmse", "ndcg_at_10", "auc", "log_loss") if key in metrics]
    return ", ".join(f"{key} {metrics[key]:.4f}" for key in headline)


def _describe(dataset: "Dataset", metrics: dict[str, float]) -> str:
    until = f" until {dataset.data_until}" if dataset.data_until else ""
    return f"{dataset.rows['train']} training rows from {dataset.source}{until}; test {_shown(metrics)}"


def champion_metrics(
    settings: Settings, name: str, version: int, dataset: "Dataset", config: "TrainConfig"
) -> dict[str, float] | None:
    """What the version in service reaches on the new version's test split, at the new one's costs; None where it is the
    first.

    Empty where it has trained on some of those rows: it would win by memory, and live evidence decides alone.
    """
    from training.evaluation import evaluate_bundle, share_seen

    rollout = current_rollout(settings, name)
    if rollout is None or rollout.stable == version:
        return None
    champion = read_bundle(settings.models, name, rollout.stable)
    return {} if share_seen(champion, dataset) > _MOST_SEEN else evaluate_bundle(champion, dataset, config)


def judge_version(
    settings: Settings,
    name: str,
    version: int,
    dataset: "Dataset",
    trained: "TrainedModel",
    champion: dict[str, float] | None,
    reporter: Reporter,
) -> "GateVerdict":
    """Let the gate judge a version, and write what it says into the ledger.

    Args:
        champion: What ``champion_metrics`` found.
    """
    from training.config import config_from, is_ranking
    from training.gate import decide

    ranks = is_ranking(config_from(trained.task, trained.config))
    verdict = decide(trained.task, trained.metrics, champion, gate_bounds(dataset.signature), ranks=ranks)
    summary = f"version {version} {'passed' if verdict.passed else 'refused'}: {'; '.join(verdict.reasons)}"
    payload = {"version": version, "metrics": trained.metrics, "champion": champion, "verdict": asdict(verdict)}
    Ledger(settings.ledger).append("gate", name, at=now(), summary=summary, payload=payload)
    reporter.note(f"gate: {summary}")
    return verdict


def gate_bounds(signature: Signature) -> "GateBounds":
    """The gate's bounds on the scale of the data: an RMSE means something only beside the range of the ratings."""
    from training.gate import GateBounds

    usual = GateBounds()
    share = (signature.label_high - signature.label_low) / _USUAL_RATING_RANGE
    return replace(usual, max_rmse=usual.max_rmse * share, rmse_tolerance=usual.rmse_tolerance * share)


def export_version(
    settings: Settings,
    name: str,
    version: int,
    run_id: str,
    trained: "TrainedModel",
    dataset: "Dataset",
    reporter: Reporter,
    *,
    write_graph: "WriteGraph | None" = None,
) -> Bundle:
    """Write a version's bundle, or find it written."""
    from exporters.export import export

    with reporter.task(f"Exporting {name} version {version} to ONNX and TorchScript") as task:
        bundle = export(
            trained,
            dataset,
            name=name,
            version=version,
            run_id=run_id,
            models=settings.models,
            write_graph=write_graph,
        )
        worst = max((case.max_abs_difference for case in bundle.manifest.parity), default=0.0)
        task.finish(f"{len(bundle.manifest.parity)} parity checks, largest difference {worst:.1e}")
    return bundle


def find_dataset(settings: Settings, fingerprint: str) -> "Dataset":
    """The prepared dataset of that fingerprint in the home.

    Raises:
        DataError: It is not there any more.
    """
    from training.data.dataset import read_dataset

    for folder in settings.data.glob(f"*/{fingerprint[:16]}"):
        return read_dataset(folder)
    raise DataError(
        f"no prepared dataset under {settings.data} has the fingerprint {fingerprint[:12]}",
        hint="prepare it again with driftwheel data, or name its folder with --dataset",
    )


Entry = Literal["in service", "on trial", "refused", "known", "archived"]


def enter(
    settings: Settings, made: NewVersion, *, by: str, steps: tuple[float, ...] | None = None
) -> tuple[Entry, Rollout | None]:
    """Let a version that passed the gate in, as ``enter_bundle`` does; one that did not stays out."""
    if made.bundle is None:
        return "refused", current_rollout(settings, made.name)
    return enter_bundle(settings, made.bundle, by=by, steps=steps)


def enter_bundle(
    settings: Settings, bundle: Bundle, *, by: str, steps: tuple[float, ...] | None = None
) -> tuple[Entry, Rollout | None]:
    """Let a bundle in: the first one serves at once, later ones as candidates behind the split.

    Raises:
        RolloutError: Another candidate is on trial, or it cannot answer the requests that the version in service gets.
    """
    name, version = bundle.name, bundle.version
    rollout = current_rollout(settings, name)
    if rollout is not None and version in rollout.versions:
        return "known", rollout
    if version in archived_versions(settings, name):
        return "archived", rollout
    if rollout is None:
        rollout = serve_stable(settings.rollouts, name, version, by=by, now=now())
        entry: Entry = "in service"
    else:
        check_compatible(settings, bundle)
        plan = DEFAULT_STEPS if steps is None else steps
        rollout = start_candidate(settings.rollouts, name, version, steps=plan, by=by, now=now())
        entry = "on trial"
    Ledger(settings.ledger).append(
        "rollout", name, at=now(), summary=f"version {version} {entry} (by {by})", payload=asdict(rollout)
    )
    sync_aliases(settings, rollout)
    return entry, rollout


def check_compatible(settings: Settings, candidate: Bundle) -> None:
    """Refuse a candidate that cannot answer the requests that the version in service gets: its users would see errors.

    Raises:
        RolloutError: Inputs, outputs, routing key or label differ.
    """
    rollout = current_rollout(settings, candidate.name)
    if rollout is None:
        return
    stable = read_manifest(bundle_folder(settings.models, candidate.name, rollout.stable)).signature
    if (why := incompatibility(stable, candidate.manifest.signature)) is not None:
        raise RolloutError(
            f"version {candidate.version} of {candidate.name!r} cannot go on trial beside version {rollout.stable}: {why}",
            hint=f"give it a name of its own, or driftwheel canary promote {candidate.name} {candidate.version}",
        )


def sync_aliases(settings: Settings, rollout: Rollout) -> None:
    """Make the registry's aliases say what the rollout says: champion is in service, challenger is on trial."""
    from training.mlflow_store import is_empty
    from training.registry import CHALLENGER, CHAMPION, Registry

    if is_empty(settings):
        return  # bundles brought from elsewhere: there is nothing to name, and opening MLflow takes seconds
    if find_spec("mlflow") is None:
        _log.warning("aliases.not_moved", model=rollout.model, reason="mlflow is not installed here")
        return
    registry = Registry(settings)
    known = {info.version for info in registry.versions(rollout.model)}
    for alias, version in ((CHAMPION, rollout.stable), (CHALLENGER, rollout.candidate)):
        if version is None:
            registry.remove_alias(rollout.model, alias)
        elif version in known and registry.with_alias(rollout.model, alias) != version:
            registry.set_alias(rollout.model, alias, version)
