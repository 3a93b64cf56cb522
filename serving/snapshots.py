"""What several workers tell each other about their metrics: one small file each, and one of the supervisor.

::

    <home>/run/metrics/<supervisor>/<process>-<start>.worker   all samples of one living worker, rewritten every moment
    <home>/run/metrics/<supervisor>/supervisor                 the counts of the workers that died, and how many live

Whoever reads all of them (``read_all``) sees every worker exactly once, whenever it looks: a worker's counts move from its file
into the supervisor's in one rename, which also names the file that no longer counts.

Sums are kept exactly, as parts that do not overlap: were they rounded when a worker's counts move, a total could come out one
rounding step lower than before, and Prometheus takes any step down for a restart.
"""

import math
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from serving.runtime import Home

_SUFFIX = ".worker"

_ACCUMULATING = frozenset({"counter", "histogram", "summary"})
"""The kinds of family whose samples outlive their worker."""

_MOST_RETIRED = 256
"""Dead workers' files remembered by name: a reader may hold one that it listed just before it was deleted."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line of the exposition."""

    name: str
    labels: dict[str, str]
    parts: tuple[float, ...]
    """Their exact sum is the value; a worker's own sample has one."""


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric and its samples."""

    name: str
    kind: str
    """Prometheus' word: counter, gauge, histogram, info and so on."""
    documentation: str
    samples: list[Sample]


class Supervision(msgspec.Struct, frozen=True):
    """What the supervisor tells."""

    workers: int = 1
    """How many there should be."""
    up: int = 1
    """How many answer."""
    restarts: int = 0
    """How often one was started again."""
    retired: list[str] = []
    """The names of the files whose counts are in ``families``."""
    families: list[Family] = []
    """What the dead workers counted."""


Snapshot = list[Family]
"""Everything that one worker's registry holds."""

SampleKey = tuple[str, tuple[tuple[str, str], ...]]


def sample_key(sample: Sample) -> SampleKey:
    """What tells samples of one family apart."""
    return sample.name, tuple(sorted(sample.labels.items()))


def accumulates(family: Family, sample: Sample) -> bool:
    """Whether a sample only ever grows, and so outlives its worker."""
    return family.kind in _ACCUMULATING and not is_creation_time(family, sample)


def is_creation_time(family: Family, sample: Sample) -> bool:
    """Whether a sample says when its counter was made, which prometheus_client puts beside it."""
    return family.kind in _ACCUMULATING and sample.name == f"{family.name}_created"


def metrics_folder(home: Home, *, supervisor: int) -> Path:
    """Where the files lie. By the supervisor's process id: a killed one's workers may write while the next one starts."""
    return home.runtime / "metrics" / str(supervisor)


class WorkerFile:
    """A worker's own file. One thread at a time."""

    def __init__(self, folder: Path, *, process: int) -> None:
        # Process ids come round again; a file's name must not.
        self.name = f"{process}-{secrets.token_hex(4)}{_SUFFIX}"
        self._path = folder / self.name

    def write(self, snapshot: Snapshot) -> None:
        """Put a newer snapshot in the place of the last."""
        _replace(self._path, msgspec.msgpack.encode(snapshot))


class SupervisorFile:
    """The supervisor's file. What earlier servers left beside its folder goes."""

    def __init__(self, folder: Path, *, workers: int) -> None:
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._due: set[Path] = set()
        self._write(Supervision(workers=workers, up=0))

    def retire(self, process: int) -> None:
        """Have ``tell`` take over what a dead worker counted. Its process id must not have been given away again."""
        self._due |= set(self._folder.glob(f"{process}-*{_SUFFIX}"))

    def tell(self, *, up: int, restarts: int) -> None:
        """Tell how many workers answer, how often one was started again, and what the dead ones counted.

        Raises:
            OSError: It cannot be written. Nothing is lost; call it again.
        """
        told, due = self._told, sorted(self._due)
        if not due and (up, restarts) == (told.up, told.restarts):
            return
        families = fold([told.families, *(snapshot for path in due if (snapshot := _read_worker(path)))])
        retired = [*told.retired, *(path.name for path in due)][-_MOST_RETIRED:]
        self._write(Supervision(told.workers, up, restarts, retired, families))
        self._due.clear()
        for path in due:
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete all of it, once no worker lives."""
        shutil.rmtree(self._folder.parent, ignore_errors=True)

    def _write(self, supervision: Supervision) -> None:
        _replace(self._folder / "supervisor", msgspec.msgpack.encode(supervision))
        self._told = supervision


def read_all(folder: Path, own: Mapping[str, Snapshot]) -> tuple[list[Snapshot], Supervision]:
    """The newest snapshot of every worker that has not been retired, and what the supervisor tells.

    Args:
        own: Snapshots at hand, by the name of the file that they are in.
    """
    # The supervisor's file comes last: what is gone by then, or about to go, is named in it.
    names = {path.name for path in folder.glob(f"*{_SUFFIX}")}
    snapshots = {name: _read_worker(folder / name) for name in sorted(names - own.keys())}
    supervision = msgspec.msgpack.decode((folder / "supervisor").read_bytes(), type=Supervision)
    retired = set(supervision.retired)
    return [one for name, one in {**own, **snapshots}.items() if one is not None and name not in retired], supervision


def fold(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of what outlives its worker: counters and histograms, exactly summed."""
    kinds: dict[str, Family] = {}
    samples: dict[str, dict[SampleKey, Sample]] = {}
    for family in (family for snapshot in snapshots for family in snapshot if family.kind in _ACCUMULATING):
        kinds.setdefault(family.name, family)
        folded = samples.setdefault(family.name, {})
        for sample in family.samples:
            key = sample_key(sample)
            parts = (*folded[key].parts, *sample.parts) if key in folded else sample.parts
            kept = (min(parts),) if is_creation_time(family, sample) else exact_parts(parts)
            folded[key] = Sample(sample.name, sample.labels, kept)
    return [Family(name, kinds[name].kind, kinds[name].documentation, list(samples[name].values())) for name in kinds]


def exact_parts(values: Sequence[float]) -> tuple[float, ...]:
    """Few numbers with exactly the same sum: the sum rounded, what the rounding left, and so on until nothing is left."""
    if not all(map(math.isfinite, values)):
        return (sum(values),)
    parts: list[float] = []
    while rest := math.fsum([*values, *(-part for part in parts)]):
        parts.append(rest)
    return tuple(parts)


def _read_worker(path: Path) -> Snapshot | None:
    """A worker's file; None where it has been retired meanwhile."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all for readers. Not flushed to the disk: after a power cut there is nobody to add to."""
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_bytes(content)
    temporary.replace(path)
