"""How a home's TorchServe is."""

from dataclasses import dataclass

from driftwheel.errors import DriftwheelError, NotFoundError
from driftwheel.settings import Settings
from serving.torchserve.lifecycle import running_instance
from serving.torchserve.management import DescribedVersion, Management


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version in TorchServe."""

    model: str
    version: str
    workers_ready: int
    workers: int
    """That there should be."""
    pids: list[int]
    queued: int
    """Requests that wait for a worker."""
    queue_size: int
    problem: str
    """Why it cannot answer; empty where it can."""


@dataclass(frozen=True, slots=True)
class TorchServeStatus:
    """A TorchServe that runs."""

    pid: int
    grpc: str
    http: str
    management: str
    metrics: str
    key_file: str
    log: str
    versions: list[VersionStatus]

    @property
    def healthy(self) -> bool:
        """Whether every version can answer."""
        return not any(one.problem for one in self.versions)


def status(settings: Settings) -> TorchServeStatus | None:
    """What runs; None where nothing does."""
    running = running_instance(settings)
    if running is None:
        return None
    address, instance = running
    management = Management(address)
    return TorchServeStatus(
        pid=address.pid,
        grpc=address.grpc,
        http=address.http,
        management=address.management,
        metrics=address.metrics,
        key_file=str(instance.key_file),
        log=str(instance.log),
        versions=[_version(management, model, one) for model in address.models for one in address.models[model]],
    )


def _version(management: Management, model: str, version: str) -> VersionStatus:
    try:
        return _described(model, version, management.describe(model, version))
    except NotFoundError:
        problem = "it is not registered"
    except DriftwheelError as error:
        problem = error.message
    return VersionStatus(model, version, 0, 0, [], 0, 0, problem)


def _described(model: str, version: str, described: DescribedVersion) -> VersionStatus:
    queue = described.job_queue_status
    return VersionStatus(
        model,
        version,
        workers_ready=described.ready,
        workers=described.min_workers,
        pids=[worker.pid for worker in described.workers],
        queued=queue.pending_requests,
        queue_size=queue.pending_requests + queue.remaining_capacity,
        problem="" if described.ready else "no worker is ready",
    )
