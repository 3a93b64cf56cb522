"""Synthetic ratings through torchrun, on a dataset that points to the Parquet file as it is."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.training.libraries.contract import Answer
from benchmarks.training.libraries.exchange import HIGH, LOW
from benchmarks.training.synthetic import ABOUT, TEST, TRAIN
from driftwheel.bundle import write_vocabulary
from driftwheel.contracts import InputSpec, OutputSpec, Signature
from driftwheel.vocabulary import Vocabulary
from training.config import estimator_config
from training.data.dataset import TITLES, Dataset, DatasetDescription, encoded_split, read_dataset, write_description
from training.inference import predict as answers
from training.launch import train
from training.models.store import load_model

_VALID_ROWS = 10_000
_TIMEOUT_S = 3600.0
_FILES = {"user_id": "user_id.json", "item_id": "item_id.json"}


def stream(folder: Path, seed: int, *, estimator: str, ranks: int, **parameters: Any) -> Answer:
    """Train under torchrun with one thread a rank; the seconds are those of the epochs, as the slowest rank sees them."""
    config = dataclasses.replace(estimator_config("rating", estimator), **parameters)
    with tempfile.TemporaryDirectory() as place:
        dataset = dataset_of(folder, Path(place) / "dataset")
        made = train(
            dataset,
            jobs_folder=Path(place) / "jobs",
            ranks=ranks,
            threads=ranks,
            seed=seed,
            timeout_s=_TIMEOUT_S,
            config=config,
        )
        model = load_model(made.folder)
        shutil.copyfile(folder / TEST, dataset.path("test.parquet"))
        asked = encoded_split(dataset, "test")
        return Answer(answers(model, asked.feed).astype(np.float64), sum(event.seconds for event in made.history))


def dataset_of(folder: Path, target: Path) -> Dataset:
    """A prepared dataset whose training split is the synthetic file itself, linked."""
    about = json.loads((folder / ABOUT).read_text())
    target.mkdir(parents=True)
    (target / "train.parquet").symlink_to((folder / TRAIN).absolute())
    held = pq.read_table(folder / TEST).slice(0, _VALID_ROWS)
    pq.write_table(held, target / "valid.parquet")
    for column, file in _FILES.items():
        ids = pq.read_table(folder / TRAIN, columns=[column])[column]
        known = np.unique(_numpy(ids))
        write_vocabulary(target / file, Vocabulary(known.tolist()))
        if column == "item_id":
            pq.write_table(pa.table({"item_id": known, "title": known.astype(str)}), target / TITLES)
    signature = Signature(
        inputs=tuple(
            InputSpec(name=name, datatype="INT64", role="id", graph_input=name.replace("_id", "_index"))
            for name in _FILES
        ),
        outputs=(OutputSpec(name="score", low=LOW, high=HIGH),),
        key_input="user_id",
        label="rating",
        label_low=LOW,
        label_high=HIGH,
    )
    description = DatasetDescription(
        task="rating",
        fingerprint=f"synthetic{about['train_rows']}",
        rows={"train": about["train_rows"], "valid": len(held)},
        dropped={},
        data_until=None,
        signature=signature,
        vocabularies=_FILES,
        split={},
        source=str(folder),
    )
    write_description(target, description)
    return read_dataset(target)


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()
