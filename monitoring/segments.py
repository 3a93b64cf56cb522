"""Reading the segments of a log folder, while their writers live, die or seal them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from driftwheel.files import TEMPORARY_PREFIX
from driftwheel.log_layout import OPEN_SUFFIX, SEALED_SUFFIX
from driftwheel.predictions import is_whole, widened

_log = structlog.get_logger(__name__)


def moment(time: str) -> datetime:
    """An ISO 8601 time, UTC where it names no zone."""
    parsed = datetime.fromisoformat(time)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def read_segments(
    folder: Path, *, columns: Sequence[str] | None = None, since: str | None = None, until: str | None = None
) -> pa.Table | None:
    """All whole rows under ``folder`` with ``since <= at < until``, segment by segment, in writing order.

    Where a segment is there in both forms, the sealed one counts. A torn tail (a killed process, or one that is
    writing right now) is passed over; an unreadable sealed file is reported and passed over.

    Args:
        columns: Those to read, of those that are there; None: all. ``at`` must be among them for a time range.

    Returns:
        None when there is no segment with a readable schema.
    """
    wanted = _time_range(since, until)
    tables = [table for stem in _stems(folder) if (table := _read_one(folder, stem, columns, wanted)) is not None]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def sealed_and_rest(folder: Path) -> tuple[dict[Path, pa.Schema], pa.Table | None]:
    """What ``read_segments`` reads: the sealed segments that can be read, with their schemas, and the whole rows of all
    others.

    A sealed file may be deleted, as its time is over, before the caller opens it.
    """
    sealed: dict[Path, pa.Schema] = {}
    rest: list[pa.Table] = []
    for stem in _stems(folder):
        path = folder / f"{stem}{SEALED_SUFFIX}"
        if (schema := _sealed_schema(path)) is not None:
            sealed[path] = schema
        elif (table := _read_one(folder, stem, None, None)) is not None:
            rest.append(table)
    return sealed, pa.concat_tables(rest, promote_options="permissive") if rest else None


def _sealed_schema(path: Path) -> pa.Schema | None:
    """None where there is no such file, or none that can be read: what is wrong with it, ``_read_one`` says."""
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return None


def _time_range(since: str | None, until: str | None) -> pc.Expression | None:
    bounds: list[pc.Expression] = []
    if since is not None:
        bounds.append(pc.field("at") >= pa.scalar(moment(since), pa.timestamp("us", tz="UTC")))
    if until is not None:
        bounds.append(pc.field("at") < pa.scalar(moment(until), pa.timestamp("us", tz="UTC")))
    if not bounds:
        return None
    return bounds[0] if len(bounds) == 1 else bounds[0] & bounds[1]


def _stems(folder: Path) -> list[str]:
    """The names of all segments, in writing order.

    Looked at twice: one pass over a folder can miss both forms of a segment that is being sealed meanwhile.
    """
    found = [*_listing(folder), *_listing(folder)]
    return sorted({path.stem for path in found}, key=lambda stem: [part.zfill(20) for part in stem.split("-")])


def _listing(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [
        path
        for path in folder.iterdir()
        if path.suffix in (OPEN_SUFFIX, SEALED_SUFFIX) and not path.name.startswith(TEMPORARY_PREFIX)
    ]


def _read_one(folder: Path, stem: str, columns: Sequence[str] | None, wanted: pc.Expression | None) -> pa.Table | None:
    sealed, unsealed = folder / f"{stem}{SEALED_SUFFIX}", folder / f"{stem}{OPEN_SUFFIX}"
    # The third try is for a segment that was sealed between the first two.
    for path in (sealed, unsealed, sealed):
        try:
            return _read_sealed(path, columns, wanted) if path is sealed else _read_open(path, columns, wanted)
        except FileNotFoundError:
            continue
        except (pa.ArrowException, OSError) as error:
            _log.warning("segment_unreadable", path=str(path), error=str(error))
    return None


def _read_sealed(path: Path, columns: Sequence[str] | None, wanted: pc.Expression | None) -> pa.Table:
    import pyarrow.parquet as pq

    # Opened once: were the file replaced in between, schema and rows would be of different files.
    with pa.OSFile(str(path)) as file:
        present = pq.read_schema(file).names
        chosen = present if columns is None else [name for name in columns if name in present]
        return pq.read_table(file, columns=chosen, filters=wanted)


def _read_open(path: Path, columns: Sequence[str] | None, wanted: pc.Expression | None) -> pa.Table | None:
    batches = list(_whole_batches(path.read_bytes()))
    if not batches:
        return None
    table = pa.Table.from_batches(batches)
    if columns is not None:
        table = table.select([name for name in columns if name in table.column_names])
    return table if wanted is None else table.filter(wanted)


def _whole_batches(content: bytes) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow IPC stream up to the first one that is not whole."""
    try:
        with pa.ipc.open_stream(content) as stream:
            while True:
                batch = stream.read_next_batch()
                if not is_whole(batch):
                    return
                yield widened(batch)
    except (StopIteration, pa.ArrowException, OSError):  # noise can pass for anything, an unknown type or a huge one
        return
