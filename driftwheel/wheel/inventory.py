"""What there is: versions with bundles, and what the rollouts say of them."""

from typing import Any

from driftwheel.bundle import bundle_folder, list_models, list_versions, read_manifest
from driftwheel.rollout import Rollout
from driftwheel.settings import Settings
from driftwheel.wheel.lifecycle import current_rollout


def inventory(settings: Settings, model: str | None = None) -> list[dict[str, Any]]:
    """One row for each exported version, oldest first, of one model or of all."""
    rows: list[dict[str, Any]] = []
    for name in [model] if model else list_models(settings.models):
        rollout = current_rollout(settings, name)
        for version in list_versions(settings.models, name):
            manifest = read_manifest(bundle_folder(settings.models, name, version))
            rows.append(
                {
                    "model": name,
                    "version": version,
                    "state": _state(rollout, version),
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
    if rollout is not None and version == rollout.candidate:
        return f"on trial at {rollout.weight:.2%}"
    return ""
