"""The reference that a bundle ships: inputs, predictions and labels of its held-out split."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftwheel.bundle import REFERENCE, Bundle
from driftwheel.contracts import Manifest, Signature
from driftwheel.errors import BundleError
from driftwheel.predictions import INPUT_PREFIX, OUTPUT_PREFIX
from driftwheel.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Reference:
    """What windows are compared with. ``frame`` has the columns ``in_<input>``, ``out_<output>`` and ``label``."""

    frame: "pd.DataFrame"
    manifest: Manifest
    vocabularies: dict[str, Vocabulary]

    @property
    def signature(self) -> Signature:
        return self.manifest.signature


def load_reference(bundle: Bundle) -> Reference:
    """Read ``reference.parquet``.

    Raises:
        BundleError: It is not in the bundle, has no rows, or lacks a column.
    """
    import pandas as pd

    path = bundle.path(REFERENCE)
    frame = pd.read_parquet(path)
    signature = bundle.manifest.signature
    needed = {*input_columns(signature), *output_columns(signature), "label"}
    if absent := sorted(needed - set(frame.columns)):
        raise BundleError(f"bundle file {path} lacks the columns {', '.join(absent)}")
    if frame.empty:
        raise BundleError(f"bundle file {path} has no rows")
    return Reference(frame, bundle.manifest, bundle.vocabularies())


def input_columns(signature: Signature) -> list[str]:
    """The table columns of the inputs."""
    return [INPUT_PREFIX + spec.name for spec in signature.inputs]


def output_columns(signature: Signature) -> list[str]:
    """The table columns of the outputs."""
    return [OUTPUT_PREFIX + spec.name for spec in signature.outputs]
