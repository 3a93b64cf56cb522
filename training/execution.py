"""How a job is spread over processes and machines: speed and memory follow from it, results only by rounding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from driftwheel.settings import TrainingSettings

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """See ``TrainingSettings``, whose fields of the same names say more. The defaults are one machine, unsharded."""

    precision: Precision = "float32"
    shard_tables: bool = False
    pipeline: bool = False
    max_restarts: int = 0
    silence_s: float = 600.0
    nodes: int = 1
    rendezvous: str | None = None
    address: str | None = None
    interface: str | None = None


def execution_of(settings: "TrainingSettings") -> Execution:
    """What the settings say of it."""
    return Execution(**{name: getattr(settings, name) for name in Execution.__dataclass_fields__})
