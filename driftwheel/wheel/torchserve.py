"""TorchServe for what the rollouts name: the versions, their archives, and the process."""

import dataclasses
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from driftwheel.bundle import MANIFEST, TORCHSCRIPT_GRAPH, Bundle, read_bundle
from driftwheel.errors import ConfigurationError, NotFoundError
from driftwheel.files import sha256_of
from driftwheel.rollout import list_rollouts, read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.progress import Reporter
from exporters.archive import HANDLERS, Runtime, archive_path, write_archive
from serving.torchserve.configuration import ArchivedVersion
from serving.torchserve.lifecycle import Change, up
from serving.torchserve.status import status

_MANIFEST = "MAR-INF/MANIFEST.json"


def turn_up(settings: Settings, reporter: Reporter, *, foreground: bool = False) -> Change:
    """Have a TorchServe run that serves the wanted versions.

    Args:
        foreground: Whether it is to end with this process.

    Raises:
        BundleError: A bundle is missing or damaged.
        ConfigurationError: There is nothing to serve, or nothing to serve it with.
        DriftwheelError: TorchServe did not become ready.
    """
    wanted = wanted_versions(settings)
    with reporter.task("Archives") as task:
        archived = [archived_version(settings.models, name, version) for name in wanted for version in wanted[name]]
        task.finish(", ".join(f"{one.model} {one.version}" for one in archived))
    with reporter.task("TorchServe") as task:

        def tell(ready: int, of: int) -> None:
            task.update(ready, of, f"{ready} of {of} workers ready")

        change = up(settings, archived, tell, foreground=foreground)
        task.finish("runs already, as wanted" if change == "unchanged" else f"{change}, all workers ready")
    return change


def wanted_versions(settings: Settings) -> dict[str, list[int]]:
    """By model what TorchServe is to serve: stable, the candidate, and what the settings add.

    Raises:
        ConfigurationError: Nothing.
        NotFoundError: A model that the settings name has no rollout.
    """
    own = settings.torchserve
    wanted: dict[str, list[int]] = {}
    for name in own.models or list_rollouts(settings.rollouts):
        rollout = read_rollout(settings.rollouts, name)
        wanted[name] = list(rollout.versions)
    for name, versions in own.versions.items():
        known = wanted.setdefault(name, [])
        known += [version for version in dict.fromkeys(versions) if version not in known]
    if not any(wanted.values()):
        raise ConfigurationError(
            f"nothing to serve: no rollout under {settings.rollouts}",
            hint="driftwheel train mf --enter, or driftwheel canary promote MODEL VERSION for a bundle that is there",
        )
    return wanted


def look(settings: Settings) -> dict[str, Any]:
    """What runs: whether, and whether it is healthy, then the fields of ``TorchServeStatus``, and under ``missing`` what is
    wanted and not served until ``up`` is run again, as ``mf 3``.
    """
    found = status(settings)
    if found is None:
        return {"running": False}
    served = {f"{one.model} {one.version}" for one in found.versions}
    try:
        wanted = [f"{name} {version}" for name, versions in wanted_versions(settings).items() for version in versions]
    except (ConfigurationError, NotFoundError):
        wanted = []
    missing = [one for one in wanted if one not in served]
    return {"running": True, "healthy": found.healthy, **dataclasses.asdict(found), "missing": missing}


def archived_version(models: Path, name: str, version: int) -> ArchivedVersion:
    """A version with its archive, which is written if it is missing or out of date.

    Raises:
        BundleError: The bundle is damaged.
        NotFoundError: There is no such version.
    """
    bundle = read_bundle(models, name, version)
    path = archive_path(models, name, version)
    about = _about(path)
    if about is None or not _is_current(path, about, bundle):
        # What it was written for by hand it stays.
        runtime: Runtime = "torchscript" if about and about.get("graph") == TORCHSCRIPT_GRAPH else "onnx"
        path = write_archive(bundle, runtime=runtime)
    return ArchivedVersion(name, version, path, sha256_of(path))


def _about(path: Path) -> dict[str, Any] | None:
    """What an archive's manifest says of its bundle; None where there is no archive of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            return msgspec.json.decode(archive.read(_MANIFEST), type=dict[str, Any]).get("driftwheel")
    except (OSError, KeyError, zipfile.BadZipFile, msgspec.MsgspecError):
        return None


def _is_current(path: Path, about: dict[str, Any], bundle: Bundle) -> bool:
    """Whether an archive is of this bundle, with the handlers of this installation."""
    if about.get("bundleSha256") != sha256_of(bundle.folder / MANIFEST):
        return False
    own = {one.name: one.read_bytes() for one in files(HANDLERS).iterdir() if one.name.startswith("driftwheel_")}
    with zipfile.ZipFile(path) as archive:
        packed = [name for name in archive.namelist() if name.startswith("driftwheel_")]
        return all(archive.read(name) == own.get(name) for name in packed)
