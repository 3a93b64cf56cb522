"""One of Driftwheel's estimators on the folds of C1, in a process of its own: as ``libraries.customers`` does it."""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.training.churn_folds import alone, train_on
from benchmarks.training.libraries.exchange import save_measured
from benchmarks.training.libraries.reporting import Process
from training.config import ESTIMATORS, estimator_config
from training.data.dataset import encoded_split, read_dataset
from training.inference import predict
from training.models.store import load_any


def main() -> None:
    """Answer each fold's test rows, one fold after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ESTIMATORS["churn"])
    parser.add_argument("--folds", type=json.loads, required=True, help="folders of datasets, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True, help="the npz file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config, process, started = estimator_config("churn", arguments.name), Process(), time.perf_counter()
    answers: list[np.ndarray] = []
    with TemporaryDirectory() as jobs, alone():
        for folder in arguments.folds:
            dataset = read_dataset(Path(folder))
            model = load_any(train_on(dataset, config, arguments.seed, Path(jobs)).folder)
            answers.append(predict(model, encoded_split(dataset, "test").feed))
    save_measured(arguments.answer, process.measured(np.concatenate(answers), time.perf_counter() - started))


if __name__ == "__main__":
    main()
