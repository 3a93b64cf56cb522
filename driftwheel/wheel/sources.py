"""The tables that the wheel turns on, and the models that they make."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from driftwheel.contracts import Task
from driftwheel.errors import DataError
from driftwheel.files import write_atomically
from driftwheel.settings import Settings
from training.data.sources import CustomersSource, RatingsSource, read_ratings

if TYPE_CHECKING:
    import pandas as pd

    from training.data.dataset import Dataset

REPLAY_SHARE = 0.2
"""The newest share of the ratings that ``up`` keeps to be replayed as traffic."""

LIVE_SHARE = 0.3
"""The share of the customers that is kept out of training to be replayed: of Telco's, one window of the drift job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where ratings and customers come from, and the names of the models trained on them."""

    ratings: RatingsSource
    customers: CustomersSource
    rating_model: str = "mf"
    churn_model: str = "churn"
    until: str | None = None
    """The cut date of the ratings, ISO 8601; None lets ``cut_date`` choose where one is needed."""

    def prepare(self, task: Task, settings: Settings, *, until: str | None, learn: bool) -> "Dataset":
        """Prepare a task's data.

        Args:
            until: Ratings of the source from this moment on do not count; None: all do.
            learn: Add what the log has labels for.
        """
        return (
            self._prepare_ratings(settings, until, learn)
            if task == "rating"
            else self._prepare_customers(settings, learn)
        )

    def _prepare_ratings(self, settings: Settings, until: str | None, learn: bool) -> "Dataset":  # noqa: FBT001
        from training.data.ratings import prepare_ratings

        feedback = _labelled(settings, self.rating_model, "rating") if learn else None
        return prepare_ratings(self.ratings, settings.data, until=until, feedback=feedback)

    def _prepare_customers(self, settings: Settings, learn: bool) -> "Dataset":  # noqa: FBT001
        from training.data.customers import prepare_customers

        feedback = _labelled(settings, self.churn_model, "churn") if learn else None
        if feedback is not None:
            feedback = feedback.rename(columns={"label": "churned"}).drop(columns="at")
        return prepare_customers(self.customers, settings.data, feedback=feedback, live_share=LIVE_SHARE)

    def traffic(self, task: Task, settings: Settings, *, since: str | None) -> "tuple[pd.DataFrame, str | None]":
        """Recorded rows to be replayed, oldest first, and the column that a canary split hashes where inputs have none.

        For ratings those from ``since`` (by default the cut date) on; for customers those kept out of training.
        """
        if task == "rating":
            from training.data.ratings import ratings_after

            return ratings_after(self.ratings, since or self.until or cut_date(self.ratings)), None
        from training.data.dataset import read_split

        rows = read_split(self.prepare("churn", settings, until=None, learn=False), "live").to_pandas()
        rows["customer"] = [f"live-{number}" for number in range(len(rows))]
        return rows, "customer"

    def task_of(self, model: str) -> Task:
        """What a model of ours does.

        Raises:
            DataError: No source is for it.
        """
        tasks: dict[str, Task] = {self.rating_model: "rating", self.churn_model: "churn"}
        if model not in tasks:
            raise DataError(f"no data is known for model {model!r}; known: {', '.join(tasks)}")
        return tasks[model]


def remember(settings: Settings, sources: Sources) -> None:
    """Keep where a home's data comes from: a later retrain or replay without flags means the same tables."""
    write_atomically(settings.home / "sources.json", msgspec.json.format(msgspec.json.encode(sources), indent=2))


def recall(settings: Settings) -> Sources | None:
    """What ``remember`` kept; None in a home that has not trained yet.

    Raises:
        DataError: The file is damaged.
    """
    path = settings.home / "sources.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sources)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged: {error}", hint="delete it, and name your tables by flags") from None


def _labelled(settings: Settings, model: str, task: Task) -> "pd.DataFrame":
    from monitoring.windows import labelled_examples

    return labelled_examples(settings.prediction_log, model, task=task)


def cut_date(source: RatingsSource, *, replay_share: float = REPLAY_SHARE) -> str:
    """The moment that splits the ratings in time: from it on they are traffic.

    Raises:
        DataError: The table cannot be used, or has no times.
    """
    import pandas as pd

    if not source.has_time:
        raise DataError("replaying ratings in time order needs a time column", hint="name it with --time-column")
    at = read_ratings(source)["at"].sort_values(ignore_index=True)
    moment = pd.Timestamp(int(at.iloc[int(len(at) * (1 - replay_share))]), unit="s", tz="UTC")
    return moment.isoformat()
