"""The models of a home: their rollouts, their versions, and the newest word about each."""

from pathlib import Path

import msgspec

from driftwheel.bundle import MANIFEST, bundle_folder, list_models, list_versions, read_manifest
from driftwheel.errors import BundleError, NotFoundError, RolloutError
from driftwheel.rollout import Rollout, list_rollouts, read_rollout
from driftwheel.settings import Settings
from serving.about import server_version
from serving.console.drifts import drift_status
from serving.console.history import RetrainLine, read_retrains
from serving.console.ledger import LedgerReader, decoded
from serving.console.looks import read_look

MOST_MODELS = 100
MOST_VERSIONS = 50
"""Of one model, the newest; one in service or on trial is always among them."""

_MOST_ARCHIVINGS = 500


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """A version that has a bundle."""

    version: int
    state: str = ""
    """in service, on trial, archived, or nothing."""
    fault: str = ""
    """Why the bundle cannot be read; the rest is empty then."""
    task: str = ""
    created_at: str = ""
    data_until: str | None = None
    rows: int = 0
    """Of the training split."""
    run_id: str = ""
    metrics: dict[str, float | None] = {}


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout file, without the salt that users are drawn by."""

    stable: int
    candidate: int | None
    rivals: tuple[int, ...]
    """Further versions on trial, each with a share as large as the candidate's."""
    weight: float
    steps: tuple[float, ...]
    step: int
    state: str
    updated_at: str
    updated_by: str
    started_at: str
    stepped_at: str


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model that has a bundle or a rollout."""

    name: str
    fault: str = ""
    """Why the rollout cannot be read."""
    rollout: RolloutView | None = None
    versions: list[VersionView] = []
    """Newest first."""
    more_versions: int = 0
    """Older ones that are not listed."""
    looked_at: str = ""
    """When the judge last looked at what is on trial; empty where it has not. It rises without the ledger's id."""
    drift: str = ""
    drift_at: str = ""
    retrain: RetrainLine | None = None
    """The newest."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What the page opens with."""

    server: str
    """The version of Driftwheel."""
    signed_in: bool
    """Whether a token was needed, and came."""
    ledger_id: int
    """Rises with every entry: while it stays, and a model's ``looked_at``, its history has not changed."""
    models: list[ModelView]
    more_models: int = 0


class Home:
    """Reads a home. Bundles never change, so that what one says is kept.

    Used from one thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._models = settings.models
        self._rollouts = settings.rollouts
        self._ledger = LedgerReader(settings.ledger)
        self._looks = settings.looks
        self._kept: dict[Path, tuple[int, VersionView]] = {}

    def overview(self, *, signed_in: bool) -> Overview:
        """All models, by name.

        Raises:
            UnavailableError: The ledger cannot be read.
        """
        names = sorted({*list_models(self._models), *list_rollouts(self._rollouts)})
        return Overview(
            server=server_version(),
            signed_in=signed_in,
            ledger_id=self._ledger.last_id(),
            models=[self._model(name) for name in names[:MOST_MODELS]],
            more_models=max(len(names) - MOST_MODELS, 0),
        )

    def _model(self, name: str) -> ModelView:
        rollout, fault = None, ""
        try:
            rollout = read_rollout(self._rollouts, name)
        except NotFoundError:
            pass  # exported, and never served
        except RolloutError as error:
            fault = error.message
        shown, more = self._listed(name, rollout)
        drift = self._ledger.newest(name, "drift", limit=1)
        retrain = read_retrains(self._ledger, name, limit=1)
        return ModelView(
            name=name,
            fault=fault,
            rollout=_rollout_view(rollout) if rollout else None,
            versions=self._versions(name, shown, rollout),
            more_versions=more,
            looked_at=read_look(self._looks, name).at if rollout and rollout.on_trial else "",
            drift=drift_status(drift[0]) if drift else "",
            drift_at=drift[0].at if drift else "",
            retrain=retrain[0] if retrain else None,
        )

    def _listed(self, name: str, rollout: Rollout | None) -> tuple[list[int], int]:
        """The versions that are shown, newest first, and how many more there are."""
        every = list_versions(self._models, name)
        serving = rollout.versions if rollout else ()
        shown = {*every[-MOST_VERSIONS:], *(version for version in every if version in serving)}
        return sorted(shown, reverse=True), len(every) - len(shown)

    def _versions(self, name: str, versions: list[int], rollout: Rollout | None) -> list[VersionView]:
        archived = self._archived(name)
        return [
            msgspec.structs.replace(
                self._bundle(bundle_folder(self._models, name, version), version),
                state="archived" if version in archived else _state(rollout, version),
            )
            for version in versions
        ]

    def _bundle(self, folder: Path, version: int) -> VersionView:
        try:
            stamp = (folder / MANIFEST).stat().st_mtime_ns
            if (kept := self._kept.get(folder)) is not None and kept[0] == stamp:
                return kept[1]
            manifest = read_manifest(folder)
        except (BundleError, NotFoundError) as error:
            return VersionView(version=version, fault=error.message)
        except OSError as error:
            return VersionView(version=version, fault=f"{MANIFEST} cannot be read: {error.strerror}")
        view = VersionView(
            version=version,
            task=manifest.task,
            created_at=manifest.created_at,
            data_until=manifest.training.data_until,
            rows=manifest.training.rows,
            run_id=manifest.training.run_id,
            metrics={**manifest.metrics},
        )
        if len(self._kept) >= MOST_MODELS * MOST_VERSIONS:
            self._kept.clear()
        self._kept[folder] = (stamp, view)
        return view

    def _archived(self, name: str) -> set[int]:
        """The versions whose newest entry of that kind says so."""
        newest: dict[int, bool] = {}
        for entry in self._ledger.newest(name, "archive", limit=_MOST_ARCHIVINGS):
            if (payload := decoded(entry, _Archiving)) is not None:
                newest.setdefault(payload.version, payload.archived)
        return {version for version, archived in newest.items() if archived}


class _Archiving(msgspec.Struct, frozen=True):
    version: int
    archived: bool


def _state(rollout: Rollout | None, version: int) -> str:
    if rollout is not None and version == rollout.stable:
        return "in service"
    return "on trial" if rollout is not None and version in rollout.on_trial else ""


def _rollout_view(rollout: Rollout) -> RolloutView:
    return RolloutView(**{name: getattr(rollout, name) for name in RolloutView.__struct_fields__})
