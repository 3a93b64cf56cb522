"""An unpacked archive: whole or refused, its signature, and the vocabularies that turn ids into indices."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONTENT = "archive.json"
"""Names the graph, the bundle's sum and the sum of every data file."""

_DENSE_SPAN = 1_000_000
_DENSE_SHARE = 8
"""Ids that span at most so many values, or so many times their number, get a direct lookup table; wider ones are searched."""

Column = NDArray[Any]


class DamagedArchiveError(RuntimeError):
    """The archive cannot be served. TorchServe reports a RuntimeError as a load that failed."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the signature, and where it goes in the graph."""

    name: str
    datatype: str
    """``INT64``, ``FP32`` or ``BYTES``."""
    role: str
    """``id``, ``category`` or ``number``."""
    graph_input: str
    column: int | None
    """The column of a ``[rows, columns]`` graph input, or None where that is ``[rows]``."""


class Vocabulary:
    """From ids or categories to indices from 1; 0 is everything unknown or missing."""

    def __init__(self, entries: list[Any]) -> None:
        self.entries = entries
        self.is_text = bool(entries) and isinstance(entries[0], str)
        self._index: dict[Any, int] = {entry: position for position, entry in enumerate(entries, 1)}
        self._table, self._low = _dense_table(entries) if entries and not self.is_text else (None, 0)

    def index(self, entry: int | str) -> int:
        """The index of one entry."""
        return self._index.get(entry, 0)

    def encode(self, values: Column) -> NDArray[np.int64]:
        """Indices ``[rows]`` of int64 or text ``[rows]``."""
        if self._table is None:
            get = self._index.get
            return np.fromiter((get(value, 0) for value in values.tolist()), dtype=np.int64, count=len(values))
        # A difference that wraps around int64 lands outside the table too; both of its ends are 0.
        return self._table.take(values - self._low, mode="clip").astype(np.int64, copy=False)


def _dense_table(ids: list[int]) -> tuple[NDArray[Any] | None, int]:
    low, span = min(ids) - 1, max(ids) - min(ids) + 1
    if span > max(_DENSE_SPAN, _DENSE_SHARE * len(ids)) or low < -(2**63):
        return None, 0
    table = np.zeros(span + 2, dtype=np.int64 if span <= _DENSE_SPAN else np.int32)  # the former needs no conversion
    table[np.array(ids, dtype=np.int64) - low] = np.arange(1, len(ids) + 1)
    return table, low


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive's folder holds, read and checked."""

    folder: Path
    bundle: dict[str, Any]
    """The content of ``bundle.json``."""
    checksum: str
    """SHA-256 of ``bundle.json``."""
    graph: str
    """The graph's file name."""
    inputs: tuple[Input, ...]
    graph_inputs: dict[str, list[Input]]
    """The inputs that feed each graph input, in the order of its columns."""
    vocabularies: dict[str, Vocabulary]

    @classmethod
    def read(cls, folder: Path) -> "Archive":
        """Read what TorchServe unpacked.

        Raises:
            DamagedArchiveError: A file is missing, or is not the one that was packed.
        """
        content = _json(folder / CONTENT)
        for file, expected in content["files"].items():
            path = folder / file
            if not path.is_file():
                raise DamagedArchiveError(f"{path} is missing")
            if (actual := _sum_of(path)) != expected:
                raise DamagedArchiveError(f"{path} is damaged: its SHA-256 is {actual}, expected {expected}")
        bundle = _json(folder / "bundle.json")
        inputs = tuple(
            Input(one["name"], one["datatype"], one["role"], one["graph_input"], one["column"])
            for one in bundle["signature"]["inputs"]
        )
        vocabularies = {name: Vocabulary(_json(folder / file)) for name, file in bundle["vocabularies"].items()}
        checksum, graph = content["bundle_sha256"], content["graph"]
        return cls(folder, bundle, checksum, graph, inputs, _fed(inputs), vocabularies)

    @property
    def label(self) -> str:
        """For people: ``mf version 3``."""
        return f"{self.bundle['name']} version {self.bundle['version']}"

    @property
    def output(self) -> str:
        """The name of the output that answers hold."""
        return self.bundle["signature"]["outputs"][0]["name"]

    def encode(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """Feed the graph from columns ``[rows]`` by input: int64 indices and float32 numbers, each ``[rows]`` or
        ``[rows, columns]``.
        """
        feed: dict[str, Column] = {}
        for name, specs in self.graph_inputs.items():
            parts = [self._encoded(spec, columns[spec.name]) for spec in specs]
            feed[name] = parts[0] if specs[0].column is None else np.column_stack(parts)
        return feed

    def golden(self) -> tuple[dict[str, Column], Column]:
        """The recorded requests by input, and their answers ``[rows]``."""
        with np.load(self.folder / "golden.npz", allow_pickle=False) as arrays:
            return {spec.name: arrays[f"input:{spec.name}"] for spec in self.inputs}, arrays[f"output:{self.output}"]

    def _encoded(self, spec: Input, values: Column) -> Column:
        if spec.role == "number":
            return np.asarray(values, dtype=np.float32)
        return self.vocabularies[spec.name].encode(values)


def _fed(inputs: tuple[Input, ...]) -> dict[str, list[Input]]:
    fed: dict[str, list[Input]] = {}
    for spec in inputs:
        fed.setdefault(spec.graph_input, []).append(spec)
    for name, specs in fed.items():
        specs.sort(key=lambda spec: spec.column or 0)
        if [spec.column for spec in specs] not in ([None], list(range(len(specs)))):
            raise DamagedArchiveError(f"bundle.json: the columns of graph input {name!r} have gaps")
    return fed


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DamagedArchiveError(f"{path} is missing") from None
    except ValueError as error:
        raise DamagedArchiveError(f"{path} is damaged: {error}") from None


def _sum_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
