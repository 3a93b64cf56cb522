"""The fixtures of ``samples``, for every test here."""

from tests.training.samples import (  # noqa: F401 (pytest finds them by name)
    customers,
    full_ratings,
    ratings,
    refitted_ratings,
    shared_home,
    small_ratings,
    trained_customers,
    trained_ratings,
    trained_small,
)
