"""What passes between the benchmark and a library's environment: a split as one npz file, and an answer as another."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.files import replaced

LOW, HIGH = 0.5, 5.0
"""The range of the stars; predictions are clipped to it before they are judged."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings as columns of one length, in an order that the split defines."""

    user: NDArray[np.int64]
    """Counted from 0, in the order of the ids; users and items of the whole table have a number, rated here or not."""
    item: NDArray[np.int64]
    rating: NDArray[np.float64]
    epoch_s: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[Any]) -> "Ratings":
        """The rows of those numbers, or where a mask is true."""
        return Ratings(self.user[rows], self.item[rows], self.rating[rows], self.epoch_s[rows])


@dataclass(frozen=True, slots=True)
class RatingSplit:
    """What may be learned from, and what is asked about."""

    name: str
    train: Ratings
    test: Ratings
    """For R1 and R2 the ratings to be predicted, for R3 those of the items to be found."""
    users: int
    items: int
    year: NDArray[np.float64]
    """``[items]``, NaN where the table has none."""
    genres: NDArray[np.uint8]
    """``[items, genres]``: 1 where the item is of the genre."""

    def save(self, path: Path) -> None:
        columns = {
            f"{part}_{field.name}": getattr(getattr(self, part), field.name)
            for part in ("train", "test")
            for field in dataclasses.fields(Ratings)
        }
        with replaced(path) as temporary:
            np.savez(
                temporary,
                name=self.name,
                users=self.users,
                items=self.items,
                year=self.year,
                genres=self.genres,
                **columns,
            )


def load_split(path: Path) -> RatingSplit:
    """What ``RatingSplit.save`` wrote; or, from a folder, what ``synthetic.write_synthetic`` did, without years and genres."""
    if path.is_dir():
        return _synthetic(path)
    with np.load(path, allow_pickle=False) as file:
        train, test = (
            Ratings(*(file[f"{part}_{field.name}"] for field in dataclasses.fields(Ratings)))
            for part in ("train", "test")
        )
        return RatingSplit(
            str(file["name"]), train, test, int(file["users"]), int(file["items"]), file["year"], file["genres"]
        )


def _synthetic(folder: Path) -> RatingSplit:
    import pyarrow.parquet as pq

    wanted = json.loads((folder / "about.json").read_text())["wanted"]
    train, test = (_ratings(pq.read_table(folder / f"{part}.parquet")) for part in ("train", "test"))
    users, items = wanted["users"], wanted["items"]
    return RatingSplit("synthetic", train, test, users, items, np.full(items, np.nan), np.empty((items, 0), np.uint8))


def _ratings(table: Any) -> Ratings:
    user, item, rating, epoch_s = (table[name].to_numpy() for name in ("user_id", "item_id", "rating", "timestamp"))
    return Ratings(user.astype(np.int64), item.astype(np.int64), rating.astype(np.float64), epoch_s)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run gave."""

    values: NDArray[Any]
    """Predictions ``[test rows]`` or rankings ``[users, depth]``."""
    training_s: float
    peak_mib: float
    """The most memory that one of its processes had resident, its libraries and the split included."""
    at: str
    """When it began, in ISO 8601."""
    load: float
    """What else the machine was busy with then: processes that ran or waited to, the mean over the minute before. Where they
    are more than none, the seconds are too many; the values are the same."""
    sources: Mapping[str, str]
    """SHA-256 of each file of the project that was at work in the process, by its path in the project."""
    found: Mapping[str, Any]
    """What it chose by itself, as JSON has it, for other seeds to keep to."""


def save_measured(path: Path, measured: Measured) -> None:
    fields: dict[str, Any] = {one.name: getattr(measured, one.name) for one in dataclasses.fields(measured)}
    fields |= {name: json.dumps(dict(fields[name])) for name in ("sources", "found")}
    with replaced(path) as temporary:
        np.savez(temporary, **fields)


def load_measured(path: Path) -> Measured:
    """What ``save_measured`` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return Measured(
            file["values"],
            float(file["training_s"]),
            float(file["peak_mib"]),
            str(file["at"]),
            float(file["load"]),
            json.loads(str(file["sources"])),
            json.loads(str(file["found"])),
        )
