"""TorchServe's handler of a matrix factorization: scores pairs and recommends."""

from driftwheel_adapter import BundleHandler


class RatingHandler(BundleHandler):
    """Everything is in the adapter; TorchServe wants one class defined in this file."""

    task = "rating"
