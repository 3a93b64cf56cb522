"""What the feature repository defines: three entities, a view of each, and the services that training and serving read.

Their columns are those of the offline files, so that a table with other columns needs no other code.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from driftwheel.feature_store import CHURN_SERVICE, CUSTOMER_ID, RATING_SERVICE
from training.data.customer_table import LABEL
from training.features.offline import CUSTOMERS, ITEMS, USERS, view_schema
from training.features.tables import KNOWN_AT

KEYS = {CUSTOMERS: CUSTOMER_ID, USERS: "user_id", ITEMS: "item_id"}
"""Each view's join key."""

PUSHED = {USERS: "user_ratings", ITEMS: "item_ratings"}
"""The push source of each view that the prediction log keeps fresh."""


def definitions(feast: Any, folder: Path, max_age_s: float) -> list[Any]:
    """Everything to register, from the files that are there.

    Args:
        feast: The library.
        max_age_s: How old a customer's features may be. Users' and items' do not age: they change with the next rating.

    Raises:
        DataError: A view has no files.
    """
    text = feast.ValueType.STRING
    entities = {
        view: feast.Entity(name=key.removesuffix("_id"), join_keys=[key], value_type=text) for view, key in KEYS.items()
    }
    ages = {CUSTOMERS: timedelta(seconds=max_age_s), USERS: timedelta(0), ITEMS: timedelta(0)}
    views = {
        view: feast.FeatureView(
            name=view,
            entities=[entities[view]],
            ttl=ages[view],
            schema=_fields(feast, view_schema(folder, view), key),
            source=_source(feast, view),
        )
        for view, key in KEYS.items()
    }
    services = [
        feast.FeatureService(name=CHURN_SERVICE, features=[views[CUSTOMERS]]),
        feast.FeatureService(name=RATING_SERVICE, features=[views[USERS], views[ITEMS]]),
    ]
    return [*entities.values(), *views.values(), *services]


def feature_names(schema: pa.Schema, key: str) -> list[str]:
    """The features among a view's columns, in their order."""
    return [name for name in schema.names if name not in {key, KNOWN_AT, LABEL}]


def _source(feast: Any, view: str) -> Any:
    # Relative to the repository, which may be moved or mounted elsewhere.
    files = feast.FileSource(name=f"{view}_files", path=view, timestamp_field=KNOWN_AT)
    return feast.PushSource(name=PUSHED[view], batch_source=files) if view in PUSHED else files


def _fields(feast: Any, schema: pa.Schema, key: str) -> list[Any]:
    from feast import types

    kinds = {
        pa.string(): types.String,
        pa.float32(): types.Float32,
        pa.float64(): types.Float64,
        pa.int64(): types.Int64,
    }
    features = [feast.Field(name=name, dtype=kinds[schema.field(name).type]) for name in feature_names(schema, key)]
    return [feast.Field(name=key, dtype=types.String), *features]
