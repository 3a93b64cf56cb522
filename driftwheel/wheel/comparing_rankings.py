"""What two versions rank for the same users, of whom neither has learned what is asked.

Both lists leave out what the users rated in the rows that the newer version's measured model learned from, and what the older
version has learned of the test split. Each holds the items that its version knows: what a version cannot recommend, it misses.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from driftwheel.errors import DataError
from driftwheel.settings import Settings
from driftwheel.wheel.lifecycle import find_dataset
from driftwheel.wheel.version_pair import Pair, learned_by_older, not_on_record, older_bundle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.metrics import Relevant
    from training.ranking_record import RankingRecord
    from training.registry import VersionInfo

_FEWEST_USERS = 50
"""Fewer users with anything to find tell nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedSides:
    """Lists ``[users, 20]`` of both versions for the same users, as ``training.comparison`` takes them."""

    older: "NDArray[np.int64]"
    newer: "NDArray[np.int64]"
    relevant: "Relevant"
    popularity: "NDArray[np.float64]"
    """Of the rows that the newer version's measured model learned from; 0 for items that it does not know."""
    left_out: int
    """Relevant rows that do not count."""

    @property
    def judged_users(self) -> int:
        """Who has anything to find."""
        return len(set(self.relevant.row.tolist()))


def ranked_sides(settings: Settings, pair: Pair) -> RankedSides:
    """Find or make both versions' lists.

    Raises:
        NotFoundError: The older version has no bundle, and was measured on other rows.
        TrainingError: A run has no rankings on record.
        DataError: As ``comparing.compare`` has it.
    """
    record = _recorded(settings, pair.newer)
    sides = _from_records(settings, pair, record) if pair.same_rows else _from_bundle(settings, pair, record)
    if sides.judged_users < _FEWEST_USERS:
        raise DataError(
            f"of the users of the test rows of version {pair.newer.version} of {pair.newer.name}, {sides.judged_users} have "
            f"rated anything high that version {pair.older.version} has not learned, and are known to both; a comparison of "
            f"rankings takes {_FEWEST_USERS}"
        )
    return sides


def _recorded(settings: Settings, info: "VersionInfo") -> "RankingRecord":
    from training.mlflow_store import EVALUATION_FOLDER
    from training.ranking_record import ITEMS, RANKINGS, read_rankings
    from training.run_record import fetch_file

    with TemporaryDirectory() as folder:
        rankings, items = (
            fetch_file(settings, info.run_id, f"{EVALUATION_FOLDER}/{file}", Path(folder)) for file in (RANKINGS, ITEMS)
        )
        if rankings is None or items is None:
            raise not_on_record(info, "rankings of its test split")
        return read_rankings(rankings, items)


def _from_records(settings: Settings, pair: Pair, record: "RankingRecord") -> RankedSides:
    """Both were measured on the same rows, having learned from the same: users and items are the same, too."""
    from training.final_metrics import RANKING_CUTOFFS

    other, depth = _recorded(settings, pair.older), max(RANKING_CUTOFFS)
    if other.training != record.training:
        raise DataError(
            f"versions {pair.older.version} and {pair.newer.version} of {pair.newer.name} were measured on the same test "
            "split, but had learned from different rows: their lists leave out different items",
            hint="train one of them again",
        )
    return RankedSides(
        older=other.ranked[:, :depth],
        newer=record.ranked[:, :depth],
        relevant=record.relevant,
        popularity=record.popularity,
        left_out=0,
    )


def _from_bundle(settings: Settings, pair: Pair, record: "RankingRecord") -> RankedSides:
    import numpy as np
    from pandas import Index

    from training.data.dataset import public_tensors, read_split
    from training.evaluation import bundle_rankings
    from training.final_metrics import RANKING_CUTOFFS
    from training.metrics import Relevant

    depth = max(RANKING_CUTOFFS)
    bundle = older_bundle(settings, pair)
    trained_on = find_dataset(settings, record.training)
    train = public_tensors(trained_on.signature, read_split(trained_on, "train"))
    learned = learned_by_older(settings, pair)
    struck = {name: pair.answers.tensors[name][learned] for name in ("user_id", "item_id")}
    known, items = bundle.vocabularies(), Index(record.items)
    # Items that the older version alone knows come behind; the newer one's training has not seen them.
    older_items = Index(np.array(known["item_id"].entries))
    all_items = items.append(older_items[items.get_indexer(older_items) < 0])
    struck_row = Index(record.users).get_indexer(Index(struck["user_id"]))
    struck_item = all_items.get_indexer(Index(struck["item_id"]))
    struck_pairs = (struck_row * len(all_items) + struck_item)[struck_row >= 0]
    newer, whole = _without(record.ranked, struck_pairs, len(all_items), depth)
    kept = whole & (known["user_id"].encode(record.users) > 0)
    seen = {name: np.concatenate([train[name], struck[name]]) for name in struck}
    ranked = bundle_rankings(bundle, record.users[kept], seen, depth)
    relevant = record.relevant
    counts = kept[relevant.row] & ~np.isin(relevant.row * len(all_items) + relevant.item, struck_pairs)
    row = (np.cumsum(kept) - 1)[relevant.row[counts]]
    return RankedSides(
        older=np.where(ranked > 0, all_items.get_indexer(older_items)[ranked - 1], -1),
        newer=newer[kept],
        relevant=Relevant(row, relevant.item[counts]),
        popularity=np.concatenate([record.popularity, np.zeros(len(all_items) - len(items))]),
        left_out=int((~counts).sum()),
    )


def _without(
    ranked: "NDArray[np.int64]", struck: "NDArray[np.int64]", items: int, depth: int
) -> "tuple[NDArray[np.int64], NDArray[np.bool_]]":
    """Lists ``[users, depth]`` made of longer ones without the pairs ``row * items + item``; and which of them are what they
    would be had those pairs never been ranked: not those of which too little is left.
    """
    import numpy as np

    pairs = np.arange(len(ranked))[:, None] * items + ranked
    stays = (ranked >= 0) & ~np.isin(pairs, struck)
    order = np.argsort(~stays, axis=1, kind="stable")
    closed_up = np.take_along_axis(np.where(stays, ranked, -1), order, axis=1)[:, :depth]
    return closed_up, (stays.sum(axis=1) >= depth) | (ranked[:, -1] < 0)
