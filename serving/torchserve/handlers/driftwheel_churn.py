"""TorchServe's handler of a churn model: probabilities for customers."""

from driftwheel_adapter import BundleHandler


class ChurnHandler(BundleHandler):
    """Everything is in the adapter; TorchServe wants one class defined in this file."""

    task = "churn"
