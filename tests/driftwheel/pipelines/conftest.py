"""Real data, prepared once for a test session."""

from tests.training.samples import (  # noqa: F401 (fixtures)
    customers,
    shared_home,
    small_ratings,
)
