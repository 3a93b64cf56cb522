"""What is wrong with pods, as the API tells it."""

from typing import Any

import pytest

from driftwheel.wheel.pod_troubles import trouble

UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit"}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, ""),
        ({"containerStatuses": [{"state": {"running": {}}}]}, ""),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}, ""),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 5}}}]}, "pod a: Error (exit code 5)"),
        ({"initContainerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}, "pod a: ErrImagePull"),
        ({"conditions": [UNSCHEDULABLE]}, "pod a: Unschedulable: 0/3 nodes fit"),
        ({"conditions": [{"type": "PodScheduled", "status": "True"}]}, ""),
        ({"reason": "Evicted", "message": "low on memory"}, "pod a: Evicted: low on memory"),
    ],
)
def test_the_reason_is_kubernetes_own(status: dict[str, Any], said: str) -> None:
    assert trouble([{"metadata": {"name": "a"}, "status": status}]) == said


def test_the_first_pod_with_something_wrong_is_named() -> None:
    wrong = {"containerStatuses": [{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}
    pods = [{"metadata": {"name": name}, "status": {} if name == "a" else wrong} for name in "cba"]
    assert trouble(pods) == "pod b: Error (exit code 1)"
