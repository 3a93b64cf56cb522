"""What a version has been recommending: how much of the catalogue, and how much of it is what is popular anyway."""

from pathlib import Path
from typing import TYPE_CHECKING

from driftwheel.bundle import Bundle
from driftwheel.contracts import Arm, Signature
from driftwheel.predictions import INPUT_PREFIX, OK
from monitoring.drift.columns import PopularityBins
from monitoring.drift.reference import Reference
from monitoring.drift.scores import Recommended

if TYPE_CHECKING:
    import pandas as pd


def read_recommended(log: Path, bundle: Bundle, *, since: str | None) -> "pd.DataFrame | None":
    """The items that a version recommended in traffic, oldest first: ``prediction_id`` and ``in_<item>``, which is missing
    where a list was empty. None for models that recommend nothing.
    """
    from monitoring.windows import read_predictions

    item = _item_column(bundle.manifest.signature)
    if bundle.manifest.task != "rating" or item is None:
        return None
    columns = ["kind", "code", "arm", item]
    rows = read_predictions(log, bundle.name, version=bundle.version, since=since, columns=columns)
    rows = rows[(rows["kind"] == "recommend") & (rows["code"] == OK) & (rows["arm"] != Arm.PINNED)]
    return rows if item in rows.columns else rows.assign(**{item: None})


def measure_recommended(table: "pd.DataFrame", reference: Reference) -> Recommended | None:
    """Coverage and popularity of recommended items; None where there are none.

    Args:
        table: As ``read_recommended`` gives them.
    """
    item = _item_column(reference.signature)
    if item is None or table.empty:
        return None
    items = table[item].dropna()
    popular = PopularityBins.of(reference.frame[item])
    catalogue = len(reference.vocabularies[item.removeprefix(INPUT_PREFIX)])
    return Recommended(
        lists=int(table["prediction_id"].nunique()),
        empty_lists=len(table) - len(items),
        items=len(items),
        coverage=items.nunique() / max(catalogue, 1),
        top_share=float(popular.in_top(items).mean()) if len(items) else 0.0,
        asked_top_share=float(popular.in_top(reference.frame[item]).mean()),
    )


def _item_column(signature: Signature) -> str | None:
    items = [spec.name for spec in signature.inputs if spec.role == "id" and spec.name != signature.key_input]
    return INPUT_PREFIX + items[0] if items else None
