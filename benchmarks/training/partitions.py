"""How much of C1's calibration error is chance: ``python -m benchmarks.training.partitions``.

Splines and a logistic regression, which nobody calibrates, are cross-validated on other partitions of the same customers;
and labels are drawn from what they answered, as if that were exactly right.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.tools.report import console
from benchmarks.training.churn_folds import FOLDS
from benchmarks.training.libraries.customers import LABEL, Rows, splines
from training.data.sources import CustomersSource, read_customers
from training.metrics import calibration_error

BINS = (5, 10, 20, 40)
_DRAWS = 200


def pooled(rows: Rows, partition: int) -> NDArray[np.float64]:
    """The probabilities of all customers, each by a model that was fitted without its fold."""
    from sklearn.model_selection import StratifiedKFold

    answers = np.empty(len(rows.label))
    cutter = StratifiedKFold(FOLDS, shuffle=True, random_state=partition)
    for rest, held in cutter.split(rows.features, rows.label):
        predict, _ = splines(_part(rows, rest), None, 0, {"C": 0.3})
        answers[held] = predict(_part(rows, held))
    return answers


def _part(rows: Rows, chosen: NDArray[np.int64]) -> Rows:
    return Rows(rows.features.iloc[chosen].reset_index(drop=True), rows.label[chosen])


def by_chance(probability: NDArray[np.float64], random: np.random.Generator) -> list[float]:
    """The mean calibration error, by number of bins, of probabilities that are exactly right."""
    draws = [
        [
            calibration_error(probability, (random.random(len(probability)) < probability).astype(float), bins)
            for bins in BINS
        ]
        for _ in range(_DRAWS)
    ]
    return np.mean(draws, axis=0).tolist()


def main() -> None:
    """Print a line a partition: measured, and by chance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, nargs="+", default=[42, *range(10)], help="random_state of the folds")
    arguments = parser.parse_args()
    table = read_customers(CustomersSource())
    rows = Rows(table.drop(columns=[LABEL, "customer_id"]), table[LABEL].to_numpy(np.int64))
    made = Table("partition", *(f"{bins} bins (by chance)" for bins in BINS), title="Pooled calibration error")
    for partition in arguments.partitions:
        answers = pooled(rows, partition)
        chance = by_chance(answers, np.random.default_rng(partition))
        measured = [calibration_error(answers, rows.label.astype(float), bins) for bins in BINS]
        made.add_row(str(partition), *(f"{one:.4f} ({two:.4f})" for one, two in zip(measured, chance, strict=True)))
    console().print(made)


if __name__ == "__main__":
    main()
