"""What is wrong with pods, in the words that Kubernetes has for it."""

from collections.abc import Iterable
from typing import Any

_NOTHING_WRONG = ("ContainerCreating", "PodInitializing")
"""Reasons to wait that pass by themselves."""


def trouble(pods: Iterable[dict[str, Any]]) -> str:
    """What is wrong with the first pod that has something; empty where none has.

    Args:
        pods: As the API of Kubernetes lists them.
    """
    for pod in sorted(pods, key=lambda one: one["metadata"]["name"]):
        if said := _of_pod(pod.get("status", {})):
            return f"pod {pod['metadata']['name']}: {said}"
    return ""


def _of_pod(status: dict[str, Any]) -> str:
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    if said := next(filter(None, map(_of_container, containers)), ""):
        return said
    if status.get("reason"):  # of the pod as a whole: it was evicted, for one
        return _joined(status["reason"], status.get("message"))
    for one in status.get("conditions", []):
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return _joined(one.get("reason"), one.get("message"))
    return ""


def _of_container(container: dict[str, Any]) -> str:
    state = container.get("state", {})
    if (ended := state.get("terminated")) is not None and ended["exitCode"] != 0:
        return _joined(f"{ended.get('reason', 'Error')} (exit code {ended['exitCode']})", ended.get("message"))
    if (waits := state.get("waiting")) is not None and waits.get("reason") not in _NOTHING_WRONG:
        return _joined(waits.get("reason"), waits.get("message"))
    return ""


def _joined(*said: str | None) -> str:
    return ": ".join(filter(None, said))
