"""What there is: versions with bundles, and what the rollouts say of them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from driftwheel.bundle import bundle_folder, list_models, list_versions, read_manifest
from driftwheel.errors import NotFoundError
from driftwheel.rollout import Rollout
from driftwheel.settings import Settings
from driftwheel.wheel.archive import archived_versions
from driftwheel.wheel.lifecycle import current_rollout
from training.mlflow_store import is_empty


def inventory(settings: Settings, model: str | None = None) -> list[dict[str, Any]]:
    """One row for each exported version, oldest first, of one model or of all."""
    rows: list[dict[str, Any]] = []
    for name in [model] if model else list_models(settings.models):
        rollout, archived = current_rollout(settings, name), archived_versions(settings, name)
        for version in list_versions(settings.models, name):
            manifest = read_manifest(bundle_folder(settings.models, name, version))
            rows.append(
                {
                    "model": name,
                    "version": version,
                    "state": "archived" if version in archived else _state(rollout, version),
                    "metrics": manifest.metrics,
                    "data_until": manifest.training.data_until,
                    "rows": manifest.training.rows,
                    "run_id": manifest.training.run_id,
                    "fingerprint": manifest.training.data_fingerprint,
                }
            )
    return rows


def _state(rollout: Rollout | None, version: int) -> str:
    if rollout is not None and version == rollout.stable:
        return "in service"
    if rollout is not None and version in rollout.on_trial:
        return f"on trial at {rollout.weight:.2%}"
    return ""


def describe(settings: Settings, model: str, version: int) -> dict[str, Any]:
    """What is known of a version, from its bundle, the registry and the ledger, whichever there are.

    Raises:
        NotFoundError: There is neither a bundle nor a registered version of that number.
    """
    archived = archived_versions(settings, model).get(version)
    facts: dict[str, Any] = {
        "model": model,
        "version": version,
        "state": f"archived by {archived.who}: {archived.reason}" if archived else "",
    }
    if not archived:
        facts["state"] = _state(current_rollout(settings, model), version) or "not in service"
    if exported := version in list_versions(settings.models, model):
        facts |= _of_bundle(bundle_folder(settings.models, model, version))
    if not is_empty(settings):
        facts |= _of_registry(settings, model, version, exported=exported)
    elif not exported:
        raise NotFoundError(f"{model} has no version {version}", hint=f"driftwheel models list {model}")
    return facts


def _of_bundle(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return {
        "task": manifest.task,
        "created_at": manifest.created_at,
        "metrics": manifest.metrics,
        "lineage": asdict(manifest.training),
        "inputs": {spec.name: f"{spec.datatype}, {spec.role}" for spec in manifest.signature.inputs},
        "bundle": str(folder),
    }


def _of_registry(settings: Settings, model: str, version: int, *, exported: bool) -> dict[str, Any]:
    """What MLflow adds; nothing of a bundle that was brought from elsewhere."""
    from training.registry import Registry
    from training.run_record import read_run

    try:
        info = Registry(settings).info(model, version)
    except NotFoundError:
        if exported:
            return {}
        raise
    run = read_run(settings, info.run_id)
    used = {one.context: f"{one.name}, {one.digest}, {one.source}, {one.profile}" for one in run.inputs}
    return {
        "created_at": info.created_at,
        "description": info.description,
        "aliases": list(info.aliases),
        "metrics": {name[5:]: value for name, value in run.metrics.items() if name.startswith("test_")},
        "tags": info.tags,
        "run_id": info.run_id,
        "data": used,
        "parameters": run.params,
    }
