"""What all tests share."""

import os

import hypothesis
import pytest

hypothesis.settings.register_profile("driftwheel", deadline=None)  # how long an example takes is the machine's business
hypothesis.settings.load_profile("driftwheel")

# A developer's own settings must not reach the tests.
for name in [name for name in os.environ if name.startswith("DRIFTWHEEL_")]:
    del os.environ[name]

# Two workers and what they start share the cores. OpenMP's threads spin while they wait for each other, and so keep the very
# threads from running that they wait for: scikit-learn's trees then take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

LONGEST = (
    "test_wheel.py",
    "test_monitoring_stack.py",
    "test_repository.py",
    "test_serving_alone.py",
    "test_launch.py",
    "test_nodes.py",
    "test_trainjob.py",
    "test_local.py",
    "test_pods.py",
    "test_mlflow.py",
    "test_ranks.py",
    "test_worker.py",
    "test_export.py",
    "test_changes.py",
    "test_front_door.py",
    "test_page.py",
    "test_tracking_servers.py",
    "test_pyfunc.py",
    "test_versions.py",
)
"""Files that take long; begun first, so that two workers end together."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep xdist from putting the files with many tests, most of which are quick, before those that take long."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the order within a file stays."""
    rank = {name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
