"""A bundle as an archive that a bare TorchServe serves: made by torch-model-archiver, then sealed."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow.parquet as pq

from driftwheel.bundle import FACTOR_PARAMETERS, GOLDEN, ITEMS, MANIFEST, ONNX_GRAPH, SEEN, TORCHSCRIPT_GRAPH, Bundle
from driftwheel.errors import ConfigurationError, ExportError
from driftwheel.files import replaced, sha256_of

Runtime = Literal["onnx", "torchscript"]
"""What runs the graph inside TorchServe: onnxruntime, which has to be installed beside it, or PyTorch, which always is."""

FOLDER = "archives"
"""Of a model's archives, beside its bundles, which are immutable."""

HANDLERS = "serving.torchserve.handlers"
"""The package whose files are packed. They run inside TorchServe; nothing imports them here."""

_ENTRY_FILES = {"rating": "driftwheel_mf.py", "churn": "driftwheel_churn.py"}
_GRAPHS: dict[Runtime, str] = {"onnx": ONNX_GRAPH, "torchscript": TORCHSCRIPT_GRAPH}
_CONTENT = "archive.json"
_TITLES, _POPULARITY = "titles.json", "popularity.npy"
"""What ``items.parquet`` holds, in forms that numpy and Python's own library read."""
_ARCHIVER_MANIFEST = "MAR-INF/MANIFEST.json"
_DENSE = (".npy", ".npz", ".onnx", ".ts")
"""Files of numbers, which deflate hardly makes smaller."""
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def archive_path(models: Path, name: str, version: int) -> Path:
    """Where a version's archive lies, whether or not it is there."""
    return models / name / FOLDER / f"{name}-{version}.mar"


def write_archive(bundle: Bundle, *, runtime: Runtime = "onnx") -> Path:
    """Write a version's archive in place of one that is there. The same bundle makes the same bytes.

    Raises:
        BundleError: The bundle has no such graph.
        ConfigurationError: torch-model-archiver is not installed.
        ExportError: It failed.
    """
    graph = bundle.path(_GRAPHS[runtime])
    path = archive_path(bundle.folder.parent.parent, bundle.name, bundle.version)
    with TemporaryDirectory() as folder:
        staged = Path(folder) / "files"
        staged.mkdir()
        checksum = _stage(bundle, graph, staged)
        made = _run_archiver(bundle, Path(folder))
        about = {"createdOn": bundle.manifest.created_at, "bundleSha256": checksum, "graph": graph.name}
        with replaced(path) as temporary:
            _seal(made, temporary, about)
    return path


def _stage(bundle: Bundle, graph: Path, target: Path) -> str:
    """Lay out what is packed beside the handler; the bundle's checksum."""
    vocabularies = tuple(bundle.manifest.vocabularies.values())
    for file in (MANIFEST, GOLDEN, graph.name, *vocabularies, *_recommending(bundle)):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / file, target / file)
    if FACTOR_PARAMETERS in bundle.manifest.files:
        _write_items(bundle.path(ITEMS), target)
    checksum = sha256_of(target / MANIFEST)
    sums = {str(file.relative_to(target)): sha256_of(file) for file in sorted(target.rglob("*")) if file.is_file()}
    content = {"bundle_sha256": checksum, "graph": graph.name, "files": sums}
    (target / _CONTENT).write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2))
    for source in files(HANDLERS).iterdir():
        if source.name.startswith("driftwheel_") and source.name not in _ENTRY_FILES.values():
            (target / source.name).write_bytes(source.read_bytes())
    return checksum


def _recommending(bundle: Bundle) -> list[str]:
    """The files that recommending takes; none where the bundle has no factors."""
    if FACTOR_PARAMETERS not in bundle.manifest.files:
        return []
    return [SEEN, *(file for file in sorted(bundle.manifest.files) if file.startswith("factors/"))]


def _write_items(items: Path, target: Path) -> None:
    table = pq.read_table(items)
    titles: list[Any] = table.column("title").to_pylist() if "title" in table.column_names else [None] * len(table)
    (target / _TITLES).write_bytes(msgspec.json.encode(titles))
    np.save(target / _POPULARITY, table.column("popularity").to_numpy().astype(np.int64))


def _run_archiver(bundle: Bundle, folder: Path) -> Path:
    """Run torch-model-archiver over ``folder/files``. It has the temporary folder for itself: in a shared one it deletes what
    bears the model's name.
    """
    if importlib.util.find_spec("model_archiver") is None:
        raise ConfigurationError(
            "an archive is made by torch-model-archiver, which is not installed here",
            hint='pip install "driftwheel[torchserve]"',
        )
    entry = _ENTRY_FILES[bundle.manifest.task]
    (folder / entry).write_bytes((files(HANDLERS) / entry).read_bytes())
    (folder / "scratch").mkdir()
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--runtime", "python", "--export-path", "."]
    command += ["--model-name", bundle.name, "--version", str(bundle.version)]
    command += ["--handler", entry, "--extra-files", "files", "--archive-format", "zip-store"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "scratch")},
        capture_output=True,
        text=True,
        check=False,
    )
    made = folder / f"{bundle.name}.mar"
    if done.returncode or not made.is_file():
        raise ExportError(f"torch-model-archiver ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return made


def _seal(made: Path, target: Path, about: dict[str, str]) -> None:
    """Write the archive again, in a fixed order and without dates, its manifest naming the bundle."""
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(target, "w") as sealed:
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name == _ARCHIVER_MANIFEST:
                manifest: dict[str, Any] = msgspec.json.decode(content)
                manifest["createdOn"] = about["createdOn"]
                manifest["driftwheel"] = {key: about[key] for key in ("bundleSha256", "graph")}
                content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
            entry = zipfile.ZipInfo(name, _NO_DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(_DENSE) else zipfile.ZIP_DEFLATED
            sealed.writestr(entry, content)
