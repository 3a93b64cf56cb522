"""The model registry: numbered versions of named models, and the aliases that say which one does what."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from driftwheel.errors import NotFoundError
from driftwheel.files import published_folder
from driftwheel.names import check_name
from driftwheel.settings import Settings
from training.data.dataset import Dataset
from training.job import TrainedModel, read_trained
from training.mlflow_store import KEY_TAG, WEIGHTS_FOLDER, logged_model_id, open_client, quiet, use_globally
from training.run_record import read_run

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
"""The alias of the version in service."""
CHALLENGER = "challenger"
"""The alias of the version that wants to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """A registered version."""

    name: str
    version: int
    run_id: str
    description: str
    created_at: str
    """ISO 8601, UTC."""
    aliases: tuple[str, ...]
    tags: dict[str, str]
    """What it was made of: task, run, fingerprints and source of the data, code."""


class Registry:
    """MLflow's registry, reached by the settings. Aliases, never stages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = open_client(settings)

    def register(self, run_id: str, name: str, dataset: Dataset, description: str) -> int:
        """Register a run's model as the next version of ``name``, or find the version that the run already is."""
        self._ensure_model(check_name(name))
        for info in self.versions(name):
            if info.run_id == run_id:
                return info.version
        model_id = logged_model_id(self._client, run_id)
        tags = self._lineage(run_id, dataset)
        use_globally(self._settings)  # MLflow looks the model up in the global store, whatever the client's
        with quiet():
            version = self._client.create_model_version(
                name, f"models:/{model_id}", run_id, tags=tags, description=description, model_id=model_id
            )
        return int(version.version)

    def _lineage(self, run_id: str, dataset: Dataset) -> dict[str, str]:
        """Tags that lead from a version to its run, to the data of both its trainings, and to the code."""
        run = read_run(self._settings, run_id)
        return {
            "task": dataset.task,
            "run_id": run_id,
            "job": run.tags.get(KEY_TAG, ""),
            "data_fingerprint": dataset.fingerprint,
            "evaluation_fingerprint": run.params.get("evaluation_fingerprint", ""),
            "data_source": dataset.source,
            "data_until": dataset.data_until or "",
            "code_revision": run.tags.get("code_revision", ""),
        }

    def set_tag(self, name: str, version: int, key: str, value: str) -> None:
        """Tag a version.

        Raises:
            NotFoundError: There is no such version.
        """
        self.info(name, version)
        with quiet():
            self._client.set_model_version_tag(name, str(version), key, value)

    def delete_tag(self, name: str, version: int, key: str) -> None:
        """Take a tag away; one that is not there is fine."""
        if key in self.info(name, version).tags:
            with quiet():
                self._client.delete_model_version_tag(name, str(version), key)

    def info(self, name: str, version: int) -> VersionInfo:
        """A version.

        Raises:
            NotFoundError: There is no such version.
        """
        for info in self.versions(name):
            if info.version == version:
                return info
        there = ", ".join(str(info.version) for info in self.versions(name)) or "none"
        raise NotFoundError(f"{name} has no version {version}; registered versions: {there}")

    def versions(self, name: str) -> list[VersionInfo]:
        """The versions of a model, oldest first; none of a model that is not there."""
        aliases = self._aliases(name)
        found = [_info(version, aliases) for version in self._search(name)]
        return sorted(found, key=lambda info: info.version)

    def champion(self, name: str) -> int | None:
        """The version in service."""
        return self.with_alias(name, CHAMPION)

    def challenger(self, name: str) -> int | None:
        """The version that wants to be."""
        return self.with_alias(name, CHALLENGER)

    def with_alias(self, name: str, alias: str) -> int | None:
        """The version that bears an alias."""
        return next((version for version, aliases in self._aliases(name).items() if alias in aliases), None)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Give an alias to a version; whichever had it loses it.

        Raises:
            NotFoundError: There is no such version.
        """
        self.info(name, version)
        with quiet():
            self._client.set_registered_model_alias(name, alias, str(version))

    def remove_alias(self, name: str, alias: str) -> None:
        """Take an alias away from whichever version has it."""
        if self.with_alias(name, alias) is not None:
            with quiet():
                self._client.delete_registered_model_alias(name, alias)

    def run_of(self, name: str, version: int) -> str:
        """The run that made a version.

        Raises:
            NotFoundError: There is no such version.
        """
        return self.info(name, version).run_id

    def trained_model(self, name: str, version: int, to: Path) -> TrainedModel:
        """Fetch a version's weights and result into the folder ``to``, where they stay.

        Raises:
            NotFoundError: There is no such version.
            TrainingError: Its artifacts are missing or damaged.
        """
        run_id = self.run_of(name, version)
        if not to.exists():
            with quiet(), published_folder(to) as target, TemporaryDirectory() as scratch:
                fetched = Path(self._client.download_artifacts(run_id, WEIGHTS_FOLDER, scratch))
                for file in fetched.iterdir():
                    (target / file.name).write_bytes(file.read_bytes())
        return read_trained(to)

    def _search(self, name: str) -> "list[ModelVersion]":
        with quiet():
            found, token = [], None
            while True:
                page = self._client.search_model_versions(f"name = '{check_name(name)}'", page_token=token)
                found += page
                if not (token := page.token):
                    return found

    def _aliases(self, name: str) -> dict[int, tuple[str, ...]]:
        from mlflow.exceptions import MlflowException

        try:
            with quiet():
                by_alias = self._client.get_registered_model(check_name(name)).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        numbers = {int(version) for version in by_alias.values()}
        return {n: tuple(sorted(alias for alias, v in by_alias.items() if int(v) == n)) for n in numbers}

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            with quiet():
                self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _info(version: "ModelVersion", aliases: dict[int, tuple[str, ...]]) -> VersionInfo:
    return VersionInfo(
        name=version.name,
        version=int(version.version),
        run_id=version.run_id or "",
        description=version.description or "",
        created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(),
        aliases=aliases.get(int(version.version), ()),
        tags=dict(version.tags),
    )
