"""The deploy step: into the home's rollout, and from there to whoever serves."""

from driftwheel.errors import ConfigurationError
from driftwheel.pipelines.kserve import deploy_to_service
from driftwheel.pipelines.steps import deploy
from driftwheel.settings import Settings
from driftwheel.wheel.fleet import Store, publish, reached
from driftwheel.wheel.progress import Reporter

_PODS_READY_S = 1200.0
"""The most that new pods of an InferenceService may take, one after the other."""


def check_target(store: str, service: str) -> None:
    """Refuse a target that cannot be, before anything is trained for it.

    Args:
        store: Where bundles and rollouts are published; empty: servers work on this home.
        service: The InferenceService that reads the store; empty: none does.

    Raises:
        ConfigurationError: A service without a store; or the store's library is not installed.
    """
    if service and not store:
        raise ConfigurationError(
            f"service is {service!r}, and store is empty: an InferenceService fetches its bundles from a store",
            hint="store is what storageUri names, without its last folder: s3://driftwheel/prod",
        )
    if store:
        Store(store)


def deploy_version(
    settings: Settings, model: str, version: int, reporter: Reporter, *, store: str, service: str
) -> str:
    """Let an exported version in, and tell those who serve. Done again, it goes on where it failed.

    Args:
        store: As for ``check_target``.
        service: As for ``check_target``.

    Returns:
        How it entered: ``in service``, ``on trial``, ``archived``, or ``known`` where it was in the rollout already.

    Raises:
        DriftwheelError: It cannot enter; or the store or Kubernetes refuses or cannot be reached.
    """
    entry, _ = deploy(settings, model, version)
    reporter.note(f"version {version} of {model}: {entry}")
    if not store:
        return entry
    opened = Store(store)
    moved = reached(opened, lambda: publish(settings, opened))
    reporter.note(f"published to {store}: {', '.join(moved.bundles) or 'no new bundle'}")
    if service:
        from driftwheel.wheel.cluster import own_cluster

        deploy_to_service(own_cluster(), settings, model, service, reporter, store=store, timeout_s=_PODS_READY_S)
    return entry
