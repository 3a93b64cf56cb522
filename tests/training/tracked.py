"""Runs put on record the way the wheel does it."""

from driftwheel.settings import Settings
from exporters.model_graph import graph_writer
from training.data.dataset import Dataset
from training.job import TrainedModel
from training.launch import Trained
from training.tracking import track


def track_all(trained: Trained, dataset: Dataset, settings: Settings, *, full: Dataset) -> str:
    """Track with the graph that the exporters write."""
    return track(trained, dataset, settings, full=full, write_graph=graph_writer(trained.shipped, full))


def track_alone(trained: TrainedModel, dataset: Dataset, settings: Settings) -> str:
    """As if nothing had been left to refit."""
    return track_all(Trained(evaluated=trained, measured=trained, shipped=trained), dataset, settings, full=dataset)
