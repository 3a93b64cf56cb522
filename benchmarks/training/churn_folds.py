"""Split C1: Telco churn in five stratified folds, each a dataset as training takes it, and training on one in process."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist

from training.config import TrainConfig, config_fields, digest
from training.data.customers import customers_dataset
from training.data.dataset import Dataset
from training.data.refit import refit_dataset
from training.data.sources import CustomersSource, read_customers
from training.job import MODEL, Job, TrainedModel, read_trained
from training.tree_worker import run as run_trees
from training.worker import Worker

FOLDS = 5
_FOLD_SEED = 42
_VALID_SHARE = 0.15
"""Of the other folds' rows: what early stopping and calibration go by."""


def folds(data_folder: Path) -> Iterator[Dataset]:
    """``StratifiedKFold(5, shuffle=True, random_state=42)``, rows in file order; the fold itself is the test split."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    source = CustomersSource()
    table = read_customers(source)
    labels = table["churned"]
    cutter = StratifiedKFold(FOLDS, shuffle=True, random_state=_FOLD_SEED)
    for number, (rest, test) in enumerate(cutter.split(table, labels)):
        train, valid = train_test_split(
            rest, test_size=_VALID_SHARE, random_state=_FOLD_SEED, stratify=labels.iloc[rest]
        )
        parts = {"train": sorted(train), "valid": sorted(valid), "test": test}
        splits: dict[str, pd.DataFrame] = {
            name: table.iloc[rows].reset_index(drop=True) for name, rows in parts.items()
        }
        yield customers_dataset(splits, {"fold": float(number)}, source, data_folder, dropped={})


@contextmanager
def alone() -> Generator[None]:
    """A process group of one, which is what a worker wants."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _job(
    dataset: Dataset, config: TrainConfig, seed: int, jobs_folder: Path, *, evaluation: TrainedModel | None = None
) -> Job:
    """A job as ``training.launch`` writes it, for one rank."""
    fields = config_fields(config)
    key = f"{dataset.fingerprint[:16]}-{digest(fields, seed)}"
    (jobs_folder / key).mkdir(parents=True, exist_ok=True)
    return Job(
        key=key,
        task="churn",
        dataset=str(dataset.folder.absolute()),
        folder=str((jobs_folder / key).absolute()),
        config=fields,
        seed=seed,
        threads=torch.get_num_threads(),
        ranks=1,
        code_revision="",
        evaluation=str(evaluation.folder) if evaluation else None,
    )


def train_on(dataset: Dataset, config: TrainConfig, seed: int, jobs_folder: Path) -> TrainedModel:
    """Train as ``training.launch.train_and_refit`` does, inside ``alone``: stop early by the valid split, then the same
    training on all but the test split, for as many epochs as were best.
    """
    evaluated = _run(_job(dataset, config, seed, jobs_folder))
    refit = refit_dataset(dataset, keep_test=True)
    return _run(_job(refit, config, seed, jobs_folder, evaluation=evaluated))


def _run(job: Job) -> TrainedModel:
    if "estimator" in job.config:
        return run_trees(job)
    Worker(job, torch.device("cpu")).run()
    return read_trained(Path(job.folder) / MODEL)
