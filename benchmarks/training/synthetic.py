"""``python -m benchmarks.training.synthetic FOLDER``: ratings in any number, with something in them that can be learned.

Users differ in how much they rate (log-normal, as those of MovieLens do) and items in how often they are rated (a power law
with a flat head: Mandelbrot, 1953). A rating is a mean, a bias of the user, one of the item, a product of planted factors, and
noise, in half stars. Nobody rates an item twice. What a model leaves over of the noise is what it has not learned:
``about.json`` gives the error of the planted truth itself. What is rated depends on the item's popularity alone, not on whether
the user will like it.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from driftwheel.files import published_folder

TRAIN, TEST, ABOUT = "train.parquet", "test.parquet", "about.json"

_CHUNK_USERS = 2_000
_START_S, _END_S = 1_420_070_400, 1_735_689_600
"""Ratings lie between 2015 and 2025."""

_JOINED_BEFORE = 0.8
"""Of that time, the first part, in which users come; each then rates from their first day to the end."""

_ROW = np.dtype([("user_id", "i4"), ("item_id", "i4"), ("rating", "f4"), ("timestamp", "i8"), ("error", "f4")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """What is made; the defaults are those of the throughput comparison."""

    rows: int = 5_000_000
    """Test rows included; a user of more than a quarter of the items is cut there, so some may be missing."""
    users: int = 100_000
    items: int = 20_000
    rank: int = 16
    """Of the planted factors."""
    test_share: float = 0.02
    """Rows at random, kept out of the training file."""
    noise: float = 0.75
    """Standard deviation, in stars, before ratings are rounded to halves and cut at the ends of the scale."""
    row_groups: int = 40
    """Of the training file: periods of equal length, in their order."""
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("rows", "users", "items", "rank", "row_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share must lie in [0, 1), not {self.test_share}")
        if self.rows > self.users * self.items // 8:
            raise ValueError(f"{self.rows} rows are more than an eighth of all {self.users} x {self.items} pairs")


@dataclass(frozen=True, slots=True)
class _Planted:
    """Biases and factors; what a rating would be without noise."""

    item_order: NDArray[np.int64]
    """The most popular item first."""
    cumulative: NDArray[np.float64]
    """The chance that a rating is of one of the first items of ``item_order`` ``[items]``."""
    item_bias: NDArray[np.float64]
    item_factors: NDArray[np.float64]

    @classmethod
    def of(cls, wanted: Synthetic) -> "_Planted":
        random = np.random.default_rng([wanted.seed, 0])
        weight = 1 / (np.arange(wanted.items) + 0.005 * wanted.items) ** 1.1
        factors = random.normal(0, (0.45**2 / wanted.rank) ** 0.25, (wanted.items, wanted.rank))
        order, bias = random.permutation(wanted.items), random.normal(0, 0.4, wanted.items)
        return cls(order, np.cumsum(weight) / weight.sum(), bias, factors)


def write_synthetic(folder: Path, wanted: Synthetic) -> Path:
    """Make the files ``train.parquet`` (a row group for each period, rows by time), ``test.parquet`` and ``about.json``, or
    find them made. At no time are more than the rows of a few thousand users, or of one period, in memory.

    Raises:
        ValueError: There are other ratings in that folder.
    """
    if folder.exists():
        if json.loads((folder / ABOUT).read_text())["wanted"] != dataclasses.asdict(wanted):
            raise ValueError(f"{folder} holds synthetic ratings of another kind; give another folder, or delete it")
        return folder
    with published_folder(folder) as target, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        periods = [Path(scratch) / str(number) for number in range(wanted.row_groups)]
        _scatter(wanted, periods)
        _gather(wanted, periods, target)
    return folder


def _scatter(wanted: Synthetic, periods: list[Path]) -> None:
    """Make the users' ratings, and append each to the file of its period."""
    planted = _Planted.of(wanted)
    counts = _activity(wanted)
    length_s = (_END_S - _START_S) / len(periods)
    for start in range(0, wanted.users, _CHUNK_USERS):
        random = np.random.default_rng([wanted.seed, 1, start])
        rows = _rated(start, counts[start : start + _CHUNK_USERS], planted, wanted, random)
        period = ((rows["timestamp"] - _START_S) / length_s).astype(np.int64)
        for number, path in enumerate(periods):
            with path.open("ab") as file:
                rows[period == number].tofile(file)


def _activity(wanted: Synthetic) -> NDArray[np.int64]:
    """How many items each user rates ``[users]``."""
    random = np.random.default_rng([wanted.seed, 2])
    weight = random.lognormal(0.0, 1.0, wanted.users)
    share = wanted.rows * weight / weight.sum()
    counts = np.floor(share).astype(np.int64)
    counts[np.argsort(counts - share, kind="stable")[: wanted.rows - counts.sum()]] += 1
    return np.minimum(counts, max(1, wanted.items // 4))


def _rated(
    start: int, counts: NDArray[np.int64], planted: _Planted, wanted: Synthetic, random: np.random.Generator
) -> NDArray[np.void]:
    """The ratings of the users from ``start`` on."""
    user, item = _distinct_pairs(counts, planted, random)
    bias = random.normal(0, 0.4, len(counts))
    factors = random.normal(0, (0.45**2 / wanted.rank) ** 0.25, (len(counts), wanted.rank))
    truth = 3.5 + bias[user] + planted.item_bias[item] + (factors[user] * planted.item_factors[item]).sum(axis=1)
    stars = np.clip(np.round(2 * (truth + random.normal(0, wanted.noise, len(user)))) / 2, 0.5, 5.0)
    joined = random.uniform(0, _JOINED_BEFORE, len(counts))[user]
    rows = np.empty(len(user), dtype=_ROW)
    rows["user_id"], rows["item_id"], rows["rating"] = start + user, item, stars
    rows["timestamp"] = _START_S + (joined + random.random(len(user)) * (1 - joined)) * (_END_S - _START_S - 1)
    rows["error"] = np.clip(truth, 0.5, 5.0) - stars
    return rows


def _distinct_pairs(
    counts: NDArray[np.int64], planted: _Planted, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each user, counted from 0, as many different items, drawn by popularity: those drawn twice are drawn again."""
    items = len(planted.item_order)
    pairs, missing = np.empty(0, dtype=np.int64), counts
    while missing.any():
        user = np.repeat(np.arange(len(counts)), missing)
        place = np.searchsorted(planted.cumulative, random.random(len(user)) * planted.cumulative[-1])
        pairs = np.union1d(pairs, user * items + planted.item_order[place])
        missing = counts - np.bincount(pairs // items, minlength=len(counts))
    return pairs // items, pairs % items


def _gather(wanted: Synthetic, periods: list[Path], target: Path) -> None:
    """Write each period as a row group, without the rows that are drawn for the test file."""
    random = np.random.default_rng([wanted.seed, 3])
    held_out: list[pa.Table] = []
    squared, tested, trained = 0.0, 0, 0
    with pq.ParquetWriter(target / TRAIN, _table(np.empty(0, dtype=_ROW)).schema) as writer:
        for rows in _by_time(periods):
            test = random.random(len(rows)) < wanted.test_share
            held_out.append(_table(rows[test]))
            squared += float((rows["error"][test].astype(np.float64) ** 2).sum())
            tested, trained = tested + int(test.sum()), trained + int((~test).sum())
            writer.write_table(_table(rows[~test]), row_group_size=max(1, len(rows)))
    pq.write_table(pa.concat_tables(held_out), target / TEST)
    about = {
        "wanted": dataclasses.asdict(wanted),
        "train_rows": trained,
        "test_rows": tested,
        "rmse_of_the_truth": (squared / tested) ** 0.5 if tested else None,
    }
    (target / ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def _by_time(periods: list[Path]) -> Iterator[NDArray[np.void]]:
    for path in periods:
        rows = np.fromfile(path, dtype=_ROW)
        yield rows[np.lexsort((rows["item_id"], rows["user_id"], rows["timestamp"]))]


def _table(rows: NDArray[np.void]) -> pa.Table:
    return pa.table({name: rows[name] for name in ("user_id", "item_id", "rating", "timestamp")})


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files are to be; made, and left alone where it is there")
    for field in dataclasses.fields(Synthetic):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    arguments = vars(parser.parse_args())
    folder = write_synthetic(arguments.pop("folder"), Synthetic(**arguments))
    print((folder / ABOUT).read_text(), end="")


if __name__ == "__main__":
    main()
