"""Many servers of one home: a store between the home that trains and decides, and the homes that only serve.

::

    <store>/models/<name>/<version>/...    bundles, as in a home; each manifest is written last
    <store>/rollouts/<name>.json           what serves
    <store>/log/predictions/..., feedback  sealed segments of the servers' logs, each until the publisher has fetched it
    <store>/refusals/<host>/<name>/<version>.json   what is on trial, and that host could not load

The home that decides publishes, the serving homes follow. A store is a folder or an object store (fsspec), without locks:
each name in it has one writer, and what is not whole yet is not named by anything that a reader begins with.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from driftwheel.bundle import MANIFEST, bundle_folder, list_versions, read_bundle, read_manifest
from driftwheel.errors import BundleError, ConfigurationError, DriftwheelError, NotFoundError
from driftwheel.files import TEMPORARY_PREFIX, published_folder, replaced, waiting_lock, write_atomically
from driftwheel.log_layout import SEALED_SUFFIX
from driftwheel.names import is_name
from driftwheel.rollout import Rollout, decode_rollout, list_rollouts, read_rollout, rollout_path
from driftwheel.settings import Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.fleet_refusals import fetch_refusals, hand_over_refusals
from driftwheel.wheel.fleet_store import Store

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


@dataclass(frozen=True, slots=True)
class Moved:
    """What one look moved."""

    bundles: tuple[str, ...]
    """As ``mf 3``."""
    rollouts: tuple[str, ...]
    segments: int
    removed: tuple[str, ...] = ()
    """Bundles, as above."""
    refusals: tuple[str, ...] = ()
    """What is on trial and could not be loaded, as ``mf 3 on shop-7``; each is moved once."""


def publish(settings: Settings, store: Store) -> Moved:
    """Put what the rollouts name into the store, then the rollouts; and fetch what the servers logged, and what they refused.

    Raises:
        BundleError: A bundle is damaged; nothing of its model is published, all else is.
        RolloutError: A rollout file is damaged; likewise.
        DataError: What a host refused cannot be read; all else is done.
    """
    bundles, rollouts, faults = list[str](), list[str](), list[DriftwheelError]()
    for name in list_rollouts(settings.rollouts):
        try:
            bundles += _publish_bundles(settings, store, name)
        except DriftwheelError as error:
            faults.append(error)
            continue
        local, there = rollout_path(settings.rollouts, name), f"rollouts/{name}.json"
        if not store.has(there) or store.read(there) != local.read_bytes():
            store.put(local, there)
            rollouts.append(name)
    segments = _fetch_log(settings, store)
    refusals = tuple(fetch_refusals(settings, store, faults))
    if faults:
        raise faults[0]
    return Moved(tuple(bundles), tuple(rollouts), segments, refusals=refusals)


def follow(settings: Settings, store: Store, *, host: str, keep: int = 2) -> Moved:
    """Take what the store's rollouts name into this home, then the rollouts; hand over what was logged and what was refused;
    and delete bundles that are no longer named and that the store has.

    Args:
        host: Tells what this server hands over from what the others do.
        keep: So many versions of each model stay beside those that its rollout names, the newest.

    Raises:
        ConfigurationError: The host's name cannot be part of a file's.
        NotFoundError: Nothing has been published.
        BundleError: What was fetched is damaged; what is here of that model stays as it is, and all else is done.
        RolloutError: A rollout is damaged; likewise.
        DataError: What a server here refused cannot be read; likewise.
    """
    _check_host(host)
    bundles, rollouts, removed, refusals = list[str](), list[str](), list[str](), list[str]()
    faults, told = list[DriftwheelError](), store.under(f"refusals/{host}")
    names = [name.removesuffix(".json") for name in store.under("rollouts") if name.endswith(".json")]
    for name in filter(is_name, names):
        content = store.read(f"rollouts/{name}.json")
        try:
            bundles += _follow_bundles(settings, store, name, content)
            rollouts += _follow_rollout(settings, name, content)
            removed += _remove_unnamed(settings, store, name, keep)
            refusals += hand_over_refusals(settings, store, host, name, told)
        except DriftwheelError as error:
            faults.append(error)
    segments = _hand_over_log(settings, store, host)
    if faults:
        raise faults[0]
    if not any(map(is_name, names)):
        raise NotFoundError(f"the store {store.url} has no rollout", hint="driftwheel fleet publish STORE")
    return Moved(tuple(bundles), tuple(rollouts), segments, tuple(removed), tuple(refusals))


def _check_host(host: str) -> None:
    if not _HOST.fullmatch(host):
        raise ConfigurationError(
            f"--host {host!r} must be a letter or digit, then up to 252 letters, digits, '.', '_' or '-'"
        )


def _publish_bundles(settings: Settings, store: Store, name: str) -> Iterator[str]:
    for version in _named(read_rollout(settings.rollouts, name)):
        if not store.has(f"models/{name}/{version}/{MANIFEST}"):
            _put_bundle(settings, store, name, version)
            yield f"{name} {version}"


def _follow_bundles(settings: Settings, store: Store, name: str, rollout: bytes) -> Iterator[str]:
    for version in _named(decode_rollout(rollout, source=Path(f"rollouts/{name}.json"))):
        if not (bundle_folder(settings.models, name, version) / MANIFEST).exists():
            _fetch_bundle(settings, store, name, version)
            yield f"{name} {version}"


def _follow_rollout(settings: Settings, name: str, content: bytes) -> Iterator[str]:
    local = rollout_path(settings.rollouts, name)
    with waiting_lock(local.with_suffix(".lock")):
        if not local.exists() or local.read_bytes() != content:
            write_atomically(local, content)
            yield name


def _named(rollout: Rollout) -> list[int]:
    return list(rollout.versions)


def _put_bundle(settings: Settings, store: Store, name: str, version: int) -> None:
    bundle = read_bundle(settings.models, name, version)
    for file in (*sorted(bundle.manifest.files), MANIFEST):
        store.put(bundle.folder / file, f"models/{name}/{version}/{file}")


def _fetch_bundle(settings: Settings, store: Store, name: str, version: int) -> None:
    """Fetched beside the others, checked, and only then given its name."""
    settings.models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.models, prefix=TEMPORARY_PREFIX) as staging:
        folder, there = bundle_folder(Path(staging), name, version), f"models/{name}/{version}"
        store.fetch(f"{there}/{MANIFEST}", folder / MANIFEST)
        for file in read_manifest(folder).files:
            if not (folder / file).resolve().is_relative_to(folder.resolve()):
                raise BundleError(f"{store.url}/{there}/{MANIFEST} names {file!r}, which lies outside the bundle")
            store.fetch(f"{there}/{file}", folder / file)
        read_bundle(Path(staging), name, version)
        with published_folder(bundle_folder(settings.models, name, version)) as temporary:
            for entry in folder.iterdir():
                entry.rename(temporary / entry.name)


def _remove_unnamed(settings: Settings, store: Store, name: str, keep: int) -> Iterator[str]:
    """Servers have in memory what they answer from, and what the store has can come again."""
    named = _named(read_rollout(settings.rollouts, name))
    unnamed = [version for version in list_versions(settings.models, name) if version not in named]
    for version in unnamed[: max(0, len(unnamed) - keep)]:
        if store.has(f"models/{name}/{version}/{MANIFEST}"):
            # Gone at once: half a folder would be taken for the version itself when that is fetched again.
            leaving = settings.models / f"{TEMPORARY_PREFIX}{name}-{version}"
            bundle_folder(settings.models, name, version).rename(leaving)
            shutil.rmtree(leaving)
            yield f"{name} {version}"


def _sealed(log: Path) -> Iterator[Path]:
    for path in sorted(log.rglob(f"*{SEALED_SUFFIX}")):
        if not path.name.startswith("."):
            yield path


def _hand_over_log(settings: Settings, store: Store, host: str) -> int:
    """Sealed segments go, and are deleted here once they are there. After a crash in between, one is put there again,
    under the same name.
    """
    count = 0
    for path in _sealed(settings.prediction_log):
        there = path.relative_to(settings.prediction_log).with_name(f"{path.stem}-{host}{SEALED_SUFFIX}")
        store.put(path, f"log/{there.as_posix()}")
        path.unlink()
        count += 1
    return count


def _fetch_log(settings: Settings, store: Store) -> int:
    count = 0
    for name in store.under("log"):
        path = settings.prediction_log / name
        if path.name.startswith(".") or path.suffix != SEALED_SUFFIX:
            continue  # somebody's that is still being copied, or no segment
        if not path.resolve().is_relative_to(settings.prediction_log.resolve()):
            continue
        with replaced(path) as temporary:
            store.fetch(f"log/{name}", temporary)
        store.remove(f"log/{name}")
        count += 1
    return count


def reached(store: Store, look: Callable[[], Moved]) -> Moved:
    """What a look moved.

    Raises:
        DriftwheelError: As the look has it; or the store cannot be reached, or refuses.
    """
    try:
        return look()
    except DriftwheelError:
        raise
    except Exception as error:  # object stores raise their client's own errors, without a common base
        raise DriftwheelError(f"the store {store.url} cannot be used: {type(error).__name__}: {error}") from error


def looked(settings: Settings) -> None:
    """Leave a file whose age tells a probe that the loop goes on: ``run/fleet.json`` in the home."""
    write_atomically(settings.runtime / "fleet.json", msgspec.json.encode({"looked_at": now()}))
