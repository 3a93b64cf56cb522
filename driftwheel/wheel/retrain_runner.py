"""Who does the retrains that the loop and alerts start."""

from typing import Protocol

from driftwheel.settings import Settings
from driftwheel.wheel.retrain_processes import RetrainProcesses
from monitoring.retrain import Trigger


class RetrainRunner(Protocol):
    """Starts ``driftwheel retrain`` somewhere, and goes on with other things meanwhile."""

    def going_on(self, model: str) -> bool:
        """Whether a retrain of a model is going on, ours or anybody's."""
        ...

    def start(self, model: str, *, reason: str, trigger: Trigger) -> str:
        """Start one; where what it says can be read.

        Raises:
            DriftwheelError: It cannot be started.
        """
        ...

    def close(self) -> None:
        """End those that it started; each saves a checkpoint, and the next one goes on from there."""
        ...


def runner_for(settings: Settings) -> RetrainRunner:
    """The one that ``retrain.runner`` names.

    Raises:
        ConfigurationError: It needs a cluster, and this is no pod with a service account.
    """
    if settings.retrain.runner == "local":
        return RetrainProcesses(settings)
    from driftwheel.wheel.cluster import own_cluster
    from driftwheel.wheel.job_manifests import WORKS
    from driftwheel.wheel.retrain_jobs import RetrainJobs

    return RetrainJobs(settings, own_cluster(), WORKS[settings.retrain.runner])
