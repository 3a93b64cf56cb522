"""The part of a dataset that may be looked at as often as one likes: training and validation rows, nothing else."""

import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from driftwheel.files import published_folder
from training.data.dataset import DESCRIPTION, Dataset, Split, describe_again, read_dataset, write_description

_KEPT: tuple[Split, ...] = ("train", "valid")


def inner_dataset(dataset: Dataset) -> Dataset:
    """A dataset without the splits that it is measured on, or find it made. It lies beside the first and shares its
    files; there is no test split in it that anything could read by mistake.
    """
    digest = hashlib.sha256(msgspec.json.encode(["inner", dataset.fingerprint])).hexdigest()
    folder = dataset.folder.with_name(digest[:16])
    if not folder.exists():
        held = {f"{split}.parquet" for split in dataset.rows if split not in _KEPT}
        rows = {split: count for split, count in dataset.rows.items() if split in _KEPT}
        with published_folder(folder) as target:
            for file in sorted(dataset.folder.rglob("*")):
                name = file.relative_to(dataset.folder)
                if file.is_file() and str(name) not in {*held, DESCRIPTION}:
                    _share(file, target / name)
            write_description(target, describe_again(dataset, fingerprint=digest, rows=rows))
    return read_dataset(folder)


def _share(file: Path, to: Path) -> None:
    """Prepared files never change, so a second name is as good as a copy where the file system has such."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)
