"""``python -m benchmarks.training.spread``: what sharded tables save, and what bf16 brings, on this machine.

Memory is rank 0's, the most that it held while it trained (resident); the other ranks hold as much.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.tools.report import add_results_option, console, write_json
from training.config import ChurnConfig, RatingConfig, TrainConfig
from training.data.customers import prepare_customers
from training.data.dataset import Dataset
from training.data.ratings import prepare_ratings
from training.data.sources import CustomersSource, RatingsSource
from training.execution import Execution
from training.launch import train

_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One job's cost."""

    what: str
    ranks: int
    epoch_s: float
    """The quickest epoch's, on the clock."""
    epoch_cpu_s: float
    """Processor time of a rank for it, over all its threads."""
    peak_mb: float
    """10^6 bytes."""
    metric: float
    """The last epoch's validation metric."""


def measured(what: str, dataset: Dataset, config: TrainConfig, ranks: int, execution: Execution) -> Spread:
    """Train a job in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        trained = train(
            dataset,
            jobs_folder=Path(folder),
            ranks=ranks,
            seed=42,
            timeout_s=_TIMEOUT_S,
            config=config,
            execution=execution,
        )
    last = trained.history[-1]
    quickest = min(trained.history, key=lambda event: event.seconds)
    if quickest.cpu_seconds is None or last.peak_memory_mb is None or last.valid_metric is None:
        raise RuntimeError(f"{what}: the ranks did not measure themselves")
    return Spread(
        what=what,
        ranks=ranks,
        epoch_s=quickest.seconds,
        epoch_cpu_s=quickest.cpu_seconds,
        peak_mb=last.peak_memory_mb,
        metric=last.valid_metric,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.spread", description=__doc__)
    parser.add_argument("--factors", type=int, default=1024, help="the tables' width (default %(default)s)")
    parser.add_argument("--hidden", type=int, default=1024, help="the wide network's layers (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="of each job (default %(default)s)")
    parser.add_argument("--only", default="", help="jobs whose name begins so (default all)")
    add_results_option(parser)
    arguments = parser.parse_args()
    table = Table("what", "ranks", "epoch s", "CPU s of a rank", "peak MB of a rank", "validation metric")
    found: list[Spread] = []
    with tempfile.TemporaryDirectory() as folder:
        ratings = prepare_ratings(RatingsSource(), Path(folder))
        customers = prepare_customers(CustomersSource(), Path(folder))
        narrow = RatingConfig(epochs=arguments.epochs, factors=1)
        wide = RatingConfig(epochs=arguments.epochs, factors=arguments.factors)
        default = ChurnConfig(epochs=arguments.epochs)
        deep = ChurnConfig(epochs=arguments.epochs, hidden=(arguments.hidden, arguments.hidden), dropout=0.0)
        bf16 = Execution(precision="bf16")
        for what, dataset, config, ranks, execution in (
            ("1 factor", ratings, narrow, 2, Execution()),
            (f"{arguments.factors} factors", ratings, wide, 2, Execution()),
            (f"{arguments.factors} factors, sharded", ratings, wide, 2, Execution(shard_tables=True)),
            ("16 factors", ratings, RatingConfig(epochs=arguments.epochs), 2, Execution()),
            ("16 factors, sharded", ratings, RatingConfig(epochs=arguments.epochs), 2, Execution(shard_tables=True)),
            ("churn", customers, default, 2, Execution()),
            ("churn, bf16", customers, default, 2, bf16),
            ("churn, pipeline", customers, default, 2, Execution(pipeline=True)),
            (f"churn, hidden {deep.hidden}", customers, deep, 2, Execution()),
            (f"churn, hidden {deep.hidden}, bf16", customers, deep, 2, bf16),
            (f"churn, hidden {deep.hidden}, pipeline", customers, deep, 2, Execution(pipeline=True)),
        ):
            if not what.startswith(arguments.only):
                continue
            one = measured(what, dataset, config, ranks, execution)
            found.append(one)
            table.add_row(
                one.what,
                str(ranks),
                f"{one.epoch_s:.2f}",
                f"{one.epoch_cpu_s:.2f}",
                f"{one.peak_mb:.0f}",
                f"{one.metric:.4f}",
            )
    console().print(table)
    write_json(arguments.results, "training_spread", {"runs": found})


if __name__ == "__main__":
    main()
