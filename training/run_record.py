"""What MLflow has of a run: parameters, metrics, the data that it used, and its files."""

from dataclasses import dataclass
from pathlib import Path

from driftwheel.settings import Settings
from training.mlflow_store import CONTEXT_TAG, open_client, quiet


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """A dataset that a run used."""

    context: str
    """What for: ``training`` or ``evaluation``."""
    name: str
    digest: str
    source: str
    """JSON with the ``uri`` that it was read from."""
    profile: str
    """JSON with rows by split, and rows left out by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run, as MLflow has it."""

    run_id: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    """The last value of each."""
    inputs: tuple[RunInput, ...]


def read_run(settings: Settings, run_id: str) -> RunRecord:
    """What is on record of a run."""
    client = open_client(settings)
    with quiet():
        run = client.get_run(run_id)
    inputs = tuple(
        RunInput(
            context=next((tag.value for tag in one.tags if tag.key == CONTEXT_TAG), ""),
            name=one.dataset.name,
            digest=one.dataset.digest,
            source=one.dataset.source,
            profile=one.dataset.profile or "",
        )
        for one in (run.inputs.dataset_inputs if run.inputs else [])
    )
    data = run.data
    return RunRecord(run_id=run_id, tags=data.tags, params=data.params, metrics=data.metrics, inputs=inputs)


def fetch_file(settings: Settings, run_id: str, path: str, to: Path) -> Path | None:
    """Fetch a file of a run into the folder ``to``; None where the run has none of that path."""
    client = open_client(settings)
    folder, _, _ = path.rpartition("/")
    with quiet():
        if path not in {file.path for file in client.list_artifacts(run_id, folder or None)}:
            return None
        return Path(client.download_artifacts(run_id, path, str(to)))
