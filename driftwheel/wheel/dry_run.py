"""What a training would do, found out without doing it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwheel.settings import Settings
from driftwheel.wheel.archive import archived_versions
from driftwheel.wheel.lifecycle import current_rollout
from driftwheel.wheel.parameters import chosen_parameters
from driftwheel.wheel.progress import Reporter

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data.dataset import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """A training that has not happened."""

    model: str
    task: str
    source: str
    rows: dict[str, int]
    """By split."""
    dropped: dict[str, int]
    """Rows of the source left out, by reason."""
    data_until: str | None
    fingerprint: str
    """Of the data that is evaluated on."""
    shipped_fingerprint: str
    """Of the data that the version's weights learn from."""
    config: dict[str, Any]
    tuned: dict[str, str] | None
    """Where the parameters come from, if they are not the defaults."""
    given: list[str]
    """Those that were given by name, whatever the others come from."""
    ranks: int
    seed: int
    jobs: dict[str, str]
    """The evaluation's and the shipped weights' job: its folder's name, and how far it is."""
    run_id: str | None
    """The run that has it on record already."""
    version: int
    """Its version: the one that it is already, or else the next one."""
    registered: bool
    champion: int | None
    """What the gate compares it with; None: nothing is in service."""
    then: str
    """What becomes of a version that passes the gate."""


def plan_training(
    settings: Settings,
    name: str,
    dataset: "Dataset",
    reporter: Reporter,
    *,
    estimator: str | None = None,
    base: "TrainConfig | None" = None,
    enters: bool,
) -> TrainingPlan:
    """What ``make_version`` would do with the same arguments.

    Args:
        enters: Whether the version would be let in.

    Raises:
        ConfigurationError: What tuning found cannot be used any more.
    """
    from training.config import config_fields
    from training.data.refit import refit_fingerprint
    from training.tracking import finished_run

    parameters = chosen_parameters(settings, name, dataset, reporter, estimator=estimator, base=base)
    fields, training = config_fields(parameters.config), settings.training
    shipped = refit_fingerprint(dataset)
    keys = planned_jobs(settings, dataset, parameters.config)
    run_id = finished_run(settings, keys["shipped"])
    version, registered = _version(settings, name, run_id)
    rollout = current_rollout(settings, name)
    champion = rollout.stable if rollout and rollout.stable != version else None
    return TrainingPlan(
        model=name,
        task=dataset.task,
        source=dataset.source,
        rows=dataset.rows,
        dropped=dataset.dropped,
        data_until=dataset.data_until,
        fingerprint=dataset.fingerprint,
        shipped_fingerprint=shipped,
        config=fields,
        tuned=parameters.tuned.tags if parameters.tuned else None,
        given=sorted(training.parameters),
        ranks=training.ranks,
        seed=training.seed,
        jobs={what: f"{key}, {_state(settings.jobs / key)}" for what, key in keys.items()},
        run_id=run_id,
        version=version,
        registered=registered,
        champion=champion,
        then=_then(settings, name, version, enters=enters),
    )


def planned_jobs(settings: Settings, dataset: "Dataset", config: "TrainConfig") -> dict[str, str]:
    """The keys of the jobs that a training would be: of the ``evaluation``, and of the ``shipped`` weights."""
    from training.config import config_fields
    from training.data.refit import refit_fingerprint
    from training.job import job_key

    training = settings.training
    fields, shipped = config_fields(config), refit_fingerprint(dataset)
    return {
        "evaluation": job_key(dataset.task, dataset.fingerprint, fields, training.seed, training.precision),
        "shipped": job_key(dataset.task, shipped, fields, training.seed, training.precision),
    }


def _state(folder: Path) -> str:
    from training.job import MODEL, PROGRESS

    if (folder / MODEL).is_dir():
        return "done: it is found again"
    return "interrupted: it goes on from its checkpoint" if (folder / PROGRESS).exists() else "new"


def _version(settings: Settings, name: str, run_id: str | None) -> tuple[int, bool]:
    from training.mlflow_store import is_empty
    from training.registry import Registry

    if is_empty(settings):
        return 1, False
    versions = Registry(settings).versions(name)
    if (known := next((info.version for info in versions if info.run_id == run_id), None)) is not None:
        return known, True
    return max((info.version for info in versions), default=0) + 1, False


def _then(settings: Settings, name: str, version: int, *, enters: bool) -> str:
    rollout = current_rollout(settings, name)
    if version in archived_versions(settings, name):
        return "it stays archived"
    if not enters:
        return "it is exported, and waits"
    if rollout is None:
        return "it enters service"
    if version in rollout.versions:
        return "it is in the rollout already"
    if rollout.candidate is not None:
        return f"it cannot enter: version {rollout.candidate} is on trial"
    return f"it goes on trial beside version {rollout.stable}"
