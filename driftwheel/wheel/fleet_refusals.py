"""How the judge hears of what a host that follows a store could not load: over the store, as the log comes home.

::

    <store>/refusals/<host>/<name>/<version>.json    of the trial that goes on, until it ends or the version loads there

A host writes and removes its own. The publisher keeps the same beside what servers of its own home say, and removes what
hosts left that are gone since.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from driftwheel.errors import DriftwheelError, RolloutError
from driftwheel.files import TEMPORARY_PREFIX, write_atomically
from driftwheel.names import is_name
from driftwheel.refusals import Refusal, decode_refusal, encode_refusal, host_refusal_path, own_refusal
from driftwheel.rollout import list_rollouts, read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.fleet_store import Store


def hand_over_refusals(settings: Settings, store: Store, host: str, model: str, told: Sequence[str]) -> Iterator[str]:
    """Put into the store what this home's servers refuse of a model's versions on trial; take back what they refuse no longer.

    Args:
        told: What the store has of this host: ``<name>/<version>.json``.

    Yields:
        What is new there, as ``mf 3 on shop-7``.

    Raises:
        DataError: A refusal is damaged.
        RolloutError: The rollout is.
    """
    rollout = read_rollout(settings.rollouts, model)
    refused = {version: own_refusal(settings.refusals, rollout.about(version)) for version in rollout.on_trial}
    names = {f"{model}/{version}.json": (version, refusal) for version, refusal in refused.items() if refusal}
    for name, (version, refusal) in names.items():
        there, content = f"refusals/{host}/{name}", encode_refusal(refusal)
        if name not in told or store.read(there) != content:
            store.write(there, content)
            yield f"{model} {version} on {host}"
    for name in told:
        if name.startswith(f"{model}/") and name not in names:
            store.remove(f"refusals/{host}/{name}")


def fetch_refusals(settings: Settings, store: Store, faults: list[DriftwheelError]) -> Iterator[str]:
    """Keep in this home what hosts refuse of what is on trial, and nothing that they refuse no longer.

    Args:
        faults: Gets an error for each file that is damaged; it stays in the store, and the others are fetched.

    Yields:
        What is new here, as ``mf 3 on shop-7``.
    """
    kept, trials = set[Path](), _trials(settings)
    for name in store.under("refusals"):
        host, model, version = _parts(name)
        if not version:
            continue
        try:
            refusal = _read(store, f"refusals/{name}")
        except DriftwheelError as error:
            faults.append(error)
            continue
        if refusal is None:
            continue
        if trials.get((model, version)) != refusal.started_at:
            # Of a trial that is over. Its host, where there still is one, takes it back as well.
            store.remove(f"refusals/{name}")
            continue
        path, content = host_refusal_path(settings.refusals, model, version, host), encode_refusal(refusal)
        kept.add(path)
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)
            yield f"{model} {version} on {host}"
    for path in settings.refusals.glob("*/*/*.json"):
        if path not in kept and not path.name.startswith(TEMPORARY_PREFIX):
            path.unlink(missing_ok=True)


def _trials(settings: Settings) -> dict[tuple[str, int], str]:
    """When the trial of each model's versions began."""
    trials = dict[tuple[str, int], str]()
    for model in list_rollouts(settings.rollouts):
        try:
            rollout = read_rollout(settings.rollouts, model)
        except RolloutError:
            continue  # the publisher has said so
        trials |= {(model, version): rollout.started_at for version in rollout.on_trial}
    return trials


def _parts(name: str) -> tuple[str, str, int]:
    """Host, model and version of a name under ``refusals``; a version of 0 where it is no refusal's."""
    host, _, rest = name.partition("/")
    model, _, file = rest.partition("/")
    version = file.removesuffix(".json")
    fine = not host.startswith(".") and is_name(model) and file.endswith(".json") and version.isdecimal()
    return host, model, int(version) if fine else 0


def _read(store: Store, there: str) -> Refusal | None:
    """None: its host has taken it back since we listed it."""
    try:
        return decode_refusal(store.read(there), source=f"{store.url}/{there}")
    except FileNotFoundError:
        return None
