"""Training that takes no time: the other implementation of ``TrialRunner``."""

import math
import time

from driftwheel.settings import Settings
from training.config import RatingConfig, TrainConfig
from training.job import EpochEvent
from training.launch import OnEpoch
from training.tuning.storage import Opened, open_storage
from training.tuning.study import Plan, StudyWorker, open_study
from training.tuning.trials import TrialRow, rows_of

EPOCHS = 4


def badness(config: TrainConfig) -> float:
    """How far a configuration is from the best one, 0 there."""
    assert isinstance(config, RatingConfig)
    return abs(math.log10(config.learning_rate) + 2) + abs(math.log2(config.factors) - 4) / 4


class FakeRunner:
    """Gets better with each epoch, to 1 plus the configuration's badness.

    Args:
        raises: What the n-th run raises after its first epoch.
    """

    def __init__(self, *, epoch_s: float = 0.0, raises: dict[int, BaseException] | None = None) -> None:
        self.configs: list[TrainConfig] = []
        self.epochs = 0
        self._epoch_s = epoch_s
        self._raises = raises or {}

    def run(self, config: TrainConfig, on_epoch: OnEpoch, *, timeout_s: float) -> float:
        self.configs.append(config)
        value = math.inf
        for epoch in range(1, EPOCHS + 1):
            time.sleep(self._epoch_s)
            value = 1 + badness(config) + 1 / epoch
            self.epochs += 1
            on_epoch(EpochEvent(epoch=epoch, train_loss=value, valid_metric=value, best=True, seconds=self._epoch_s))
            if (error := self._raises.get(len(self.configs) - 1)) is not None:
                raise error
        return value


def work(
    settings: Settings, runner: FakeRunner, name: str = "mf-test", opened: Opened | None = None, **plan
) -> list[TrialRow]:
    """One worker's part in a study."""
    opened = opened or open_storage(settings, study=name)
    tuning = settings.tuning
    study = open_study(
        opened,
        name,
        "rating",
        seed=1,
        startup_trials=tuning.startup_trials,
        warmup_epochs=tuning.warmup_epochs,
        estimator="sgd",
    )
    clock = plan.pop("clock", time.monotonic)
    StudyWorker(
        study,
        opened.liveness,
        runner,
        Plan(task="rating", estimator="sgd", **({"trials": tuning.trials} | plan)),
        clock=clock,
    ).run()
    rows = rows_of(study)
    release(opened)
    return rows


def release(opened: Opened) -> None:
    """Close a database's connections, which psycopg wants said."""
    if (engine := getattr(opened.storage, "engine", None)) is not None:
        opened.storage.remove_session()
        engine.dispose()
