"""Telco's customers as traffic: as they are, with a column that broke, and with dearer contracts that more people leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.wheel.turning import CHUNK_ROWS, Home, command, settings_of
from driftwheel.wheel.sources import Sources
from training.data.sources import CustomersSource, RatingsSource

MODEL = "churn"

PRICE = 1.3
"""What monthly charges are multiplied by."""

LEAVE_TOO = 0.3
"""The share of those who would have stayed, and can leave any month, that the new price drives away."""


def as_they_are(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Nothing has changed."""
    del rng
    return rows


def broken(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """What monthly charges come from has stopped to send them."""
    del rng
    return rows.assign(monthly_charges=np.nan)


def dearer(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Everybody pays more, and some of those who can leave do so."""
    leaves = (rows["contract"] == "Month-to-month") & (rng.random(len(rows)) < LEAVE_TOO)
    return rows.assign(monthly_charges=rows["monthly_charges"] * PRICE, churned=rows["churned"].where(~leaves, 1))


Change = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]

MOST = 4
"""A trial that takes longer than so many times a phase's rows is not waited for."""

PHASES: tuple[tuple[str, Change], ...] = (
    ("as they are", as_they_are),
    ("a broken column", broken),
    ("a price change", dearer),
)


class Customers:
    """Customers drawn from those kept out of training, again and again."""

    def __init__(self, home: Home, seed: int) -> None:
        sources = Sources(ratings=RatingsSource(), customers=CustomersSource())
        self._rows, _ = sources.traffic("churn", home.settings, since=None)
        self._rng = np.random.default_rng(seed)
        self._home = home
        self._drawn = 0

    def send(self, count: int, change: Change) -> int:
        """Send so many, changed; the number of calls that failed."""
        rows = self._rows.iloc[self._rng.integers(len(self._rows), size=count)].reset_index(drop=True)
        rows["customer"] = [f"customer {self._drawn + number}" for number in range(count)]
        self._drawn += count
        return sum(self._home.send(change(rows, self._rng), key_column="customer").values())


def run(folder: Path, *, rows_per_s: float, ranks: int, rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Send so many customers in each phase, and then more of the kind while a candidate is on trial; what came of each."""
    settings = settings_of(folder / "home", ranks)
    command(settings, "train", MODEL, "--enter")
    facts: list[dict[str, Any]] = []
    with Home.turning(settings, MODEL, rows_per_s) as home:
        customers = Customers(home, seed)
        for name, change in PHASES:
            before = {kind: len(home.entries(kind)) for kind in ("drift", "verdict")}
            retrained, sent = len(home.finished_retrains()), rows
            failed = customers.send(rows, change)
            while home.on_trial and sent < MOST * rows:
                failed += customers.send(CHUNK_ROWS, change)
                sent += CHUNK_ROWS
            decisions = [entry.payload["decision"] for entry in home.entries("drift")[before["drift"] :]]
            verdicts = [entry.payload["verdict"] for entry in home.entries("verdict")[before["verdict"] :]]
            facts.append(
                {
                    "phase": name,
                    "rows": sent,
                    "failed": failed,
                    "statuses": sorted({one["status"] for one in decisions}),
                    "retrains": [one.payload["result"] for one in home.finished_retrains()[retrained:]],
                    "verdicts": [one["summary"] for one in verdicts if one["decision"] != "HOLD"],
                    "promotions": sum(one["decision"] == "PROMOTE" for one in verdicts),
                }
            )
    return facts
