"""The deploy step's last part on KServe: servers get the bundle first, and are told to serve it then."""

from driftwheel.errors import ConfigurationError, NotFoundError
from driftwheel.files import sha256_of
from driftwheel.rollout import list_rollouts, read_rollout, rollout_path
from driftwheel.settings import Settings
from driftwheel.wheel.cluster import CONFIG_MAPS, DEPLOYMENTS, INFERENCE_SERVICES, Cluster, Object, wait_for
from driftwheel.wheel.progress import Reporter

BUNDLES = "driftwheel/bundles"
"""The annotation of the predictor's pods that names what their storage initializer is to find in the store. Changed, it makes
new pods, one after the other."""

ROLLOUTS = "driftwheel-rollouts"
"""The ConfigMap of what serves; running servers follow it."""


def deploy_to_service(
    cluster: Cluster,
    settings: Settings,
    model: str,
    service: str,
    reporter: Reporter,
    *,
    store: str,
    timeout_s: float,
    every_s: float = 5.0,
) -> None:
    """Roll what this home's rollouts name out to an InferenceService.

    Pods that fetched the store's bundles before the newest one was there are replaced, and only then the ConfigMap names it:
    no running server is told to serve what it does not have. Done again, it changes nothing.

    Args:
        store: Where the bundles were published; the service's ``storageUri`` must be its folder ``models``.
        timeout_s: For the new pods to be ready.
        every_s: How often they are looked at.

    Raises:
        ConfigurationError: There is no such service, or it reads another store.
        NotFoundError: There is no ConfigMap of rollouts.
        DriftwheelError: Kubernetes cannot be reached or refuses, or the pods were not ready in time.
    """
    found = cluster.read(INFERENCE_SERVICES, service)
    if found is None:
        raise ConfigurationError(
            f"there is no InferenceService {service!r} in namespace {cluster.namespace}",
            hint="kubectl apply -k k8s/overlays/kserve",
        )
    _check_store(found, service, store)
    bundles = _named_bundles(settings)
    with reporter.task(f"New pods of InferenceService {service} with {bundles}") as task:
        cluster.merge(INFERENCE_SERVICES, service, {"spec": {"predictor": {"annotations": {BUNDLES: bundles}}}})
        pods = wait_for(
            lambda: _rolled_out(cluster, f"{service}-predictor", bundles),
            what=f"InferenceService {service}: new pods",
            timeout_s=timeout_s,
            every_s=every_s,
        )
        task.finish(f"{pods} ready")
    path = rollout_path(settings.rollouts, model)
    cluster.merge(CONFIG_MAPS, ROLLOUTS, {"data": {path.name: path.read_text()}})
    reporter.note(f"ConfigMap {ROLLOUTS}: {path.name} of SHA-256 {sha256_of(path)[:12]}")


def _check_store(found: Object, service: str, store: str) -> None:
    uri = found["spec"]["predictor"].get("model", {}).get("storageUri")
    wanted = f"{store.rstrip('/')}/models"
    if (uri or "").rstrip("/") != wanted:
        raise ConfigurationError(
            f"InferenceService {service!r} reads its models from {uri}, and they are published to {wanted}",
            hint="give the pipeline the store that storageUri names, without its last folder",
        )


def _named_bundles(settings: Settings) -> str:
    """What all rollouts of the home name, as ``churn-1.mf-3.mf-4``."""
    names = list[str]()
    for model in list_rollouts(settings.rollouts):
        rollout = read_rollout(settings.rollouts, model)
        names += [f"{model}-{version}" for version in rollout.versions]
    if not names:
        raise NotFoundError(f"there is no rollout in {settings.rollouts}")
    return ".".join(names)


def _rolled_out(cluster: Cluster, name: str, bundles: str) -> int | None:
    """How many pods there are, once all are new and ready; None until then."""
    found = cluster.read(DEPLOYMENTS, name)
    if found is None:
        return None
    annotations = found["spec"]["template"].get("metadata", {}).get("annotations") or {}
    status, wanted = found.get("status", {}), found["spec"].get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
    counts = [status.get(field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas")]
    return wanted if annotations.get(BUNDLES) == bundles and seen and counts == [wanted] * 3 else None
