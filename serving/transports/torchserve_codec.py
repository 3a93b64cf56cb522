"""What the bytes of TorchServe's inference API mean here, over REST and gRPC alike.

TorchServe hands a request's bytes to the model's handler, so their meaning is each handler's own. Ours is the usual one: JSON,
a row as an object of inputs, and one prediction for each row. ::

    [{"user_id": 15, "item_id": 318}, ...]          ->  [3.71, ...]
    {"user_id": 15, "item_id": 318}                 ->  [3.71]
    {"instances": [{"user_id": 15, ...}, ...]}      ->  {"predictions": [3.71, ...]}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from driftwheel.errors import InvalidRequestError
from serving.codec import Columns
from serving.engine import LoadedVersion
from serving.service import Answer
from serving.transports.json_bodies import decode_json
from serving.transports.json_rows import columns_of
from serving.versions import parse_version

PREDICTION_ID_HEADER = b"x-prediction-id"
"""Tells the answer's prediction id, which feedback names; TorchServe's answers have no place for it."""

_INPUT_KEYS = ("data", "body")
"""What TorchServe's own clients and default handlers call the one input."""


@dataclass(frozen=True, slots=True)
class Instances:
    """A parsed request: its rows, and whether it had the envelope."""

    rows: list[dict[str, Any]]
    enveloped: bool

    @classmethod
    def parse(cls, body: bytes) -> "Instances":
        """Read a request's bytes.

        Raises:
            InvalidRequestError: They are none of the forms above.
        """
        value = decode_json(body, object)
        if isinstance(value, dict) and "instances" in value:
            if len(value) > 1:
                raise InvalidRequestError("the body must have nothing beside 'instances'")
            return cls(_objects(value["instances"], "instances"), enveloped=True)
        return cls(_objects([value] if isinstance(value, dict) else value, "the body"), enveloped=False)

    def decode(self, loaded: LoadedVersion) -> tuple[Columns, int]:
        """For ``InferCall``."""
        return columns_of(self.rows, loaded.signature, loaded.limits.max_rows_per_request, called="instances")

    def predictions(self, answer: Answer) -> bytes:
        """The answer's bytes: the first output's values."""
        values = answer.values(answer.version.output_names[0]).tolist()
        return msgspec.json.encode({"predictions": values} if self.enveloped else values)


def _objects(values: object, called: str) -> list[dict[str, Any]]:
    if not isinstance(values, list):
        raise InvalidRequestError(f"{called} must be a list of objects, got {_shown(values)}")
    rows: list[dict[str, Any]] = []
    for position, value in enumerate(cast("list[object]", values)):
        if not isinstance(value, dict):
            raise InvalidRequestError(f"{called}[{position}] must be an object of inputs, got {_shown(value)}")
        rows.append(cast("dict[str, Any]", value))
    return rows


def _shown(value: object) -> str:
    return msgspec.json.encode(value)[:40].decode(errors="replace")


def input_of(inputs: Mapping[str, bytes]) -> bytes:
    """The one input of a gRPC request.

    Raises:
        InvalidRequestError: There is none, or something else beside it.
    """
    if len(inputs) == 1:
        for key in _INPUT_KEYS:
            if key in inputs:
                return inputs[key]
    came = ", ".join(sorted(inputs))[:80] or "none"
    raise InvalidRequestError(f"input must have the one key 'data' or 'body', with JSON; got {came}")


def version_of(text: str) -> int | None:
    """A version as TorchServe's users write it (``1`` or ``1.0``); None where there is none, so that the split decides.

    Raises:
        NotFoundError: It is no number, so there is no such version.
    """
    return parse_version(text.removesuffix(".0")) if text else None
