"""Reading and writing model bundles: one immutable folder per model version, whole or refused.

::

    <models>/<name>/<version>/
      bundle.json         the Manifest; written last, so a folder without it is not a bundle
      model.onnx          the graph; model.ts, the same as TorchScript (not of trees)
      factors/            what recommending takes (task "rating"): users.npy and items.npy, float32 rows of vector and bias
                          (users by index, the unknown's first; items in index order), parameters.json, and of models that
                          learned it prior.npy, the covariance of users before any rating
      items.parquet       item_id, title, popularity in index order (task "rating")
      seen.npz            offsets and items: what each user rated in training, as indices (task "rating")
      vocabulary/*.json   ids and categories in index order
      golden.npz          requests with their answers
      reference.parquet   inputs, predictions and labels of the held-out split
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Manifest
from driftwheel.errors import BundleError, NotFoundError
from driftwheel.files import sha256_of
from driftwheel.names import check_name, is_name
from driftwheel.vocabulary import Vocabulary

MANIFEST = "bundle.json"
ONNX_GRAPH = "model.onnx"
TORCHSCRIPT_GRAPH = "model.ts"
USER_FACTORS = "factors/users.npy"
ITEM_FACTORS = "factors/items.npy"
FACTOR_PARAMETERS = "factors/parameters.json"
USER_PRIOR = "factors/prior.npy"
ITEMS = "items.parquet"
SEEN = "seen.npz"
GOLDEN = "golden.npz"
REFERENCE = "reference.parquet"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files have been checked against their sums."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> int:
        return self.manifest.version

    def path(self, file: str) -> Path:
        """Where a file of the bundle lies.

        Raises:
            BundleError: The manifest does not list it.
        """
        if file not in self.manifest.files:
            raise BundleError(f"bundle {self.folder} has no {file}; it has {', '.join(sorted(self.manifest.files))}")
        return self.folder / file

    def vocabularies(self) -> dict[str, Vocabulary]:
        """The vocabulary of each ``id`` and ``category`` input."""
        return {name: read_vocabulary(self.path(file)) for name, file in self.manifest.vocabularies.items()}

    def golden(self) -> dict[str, NDArray[Any]]:
        """``input:<name>`` and ``output:<name>`` arrays ``[rows]`` of recorded requests. Text is stored as fixed-width
        unicode, so that no pickle is read.
        """
        with np.load(self.path(GOLDEN), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}


def bundle_folder(models: Path, name: str, version: int) -> Path:
    """Where a version's bundle lies, whether or not it is there."""
    return models / check_name(name) / str(version)


def list_versions(models: Path, name: str) -> list[int]:
    """The versions of a model that have a manifest, oldest first."""
    folder = models / check_name(name)
    if not folder.is_dir():
        return []
    return sorted(
        int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal() and (entry / MANIFEST).is_file()
    )


def list_models(models: Path) -> list[str]:
    """The names under ``models`` that have at least one version."""
    if not models.is_dir():
        return []
    names = sorted(entry.name for entry in models.iterdir() if entry.is_dir() and is_name(entry.name))
    return [name for name in names if list_versions(models, name)]


def read_manifest(folder: Path) -> Manifest:
    """Read ``bundle.json`` alone, without checking the other files.

    Raises:
        NotFoundError: There is no bundle.
        BundleError: The manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"no bundle at {folder}") from None
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}") from None
    if manifest.manifest_sha256 != _sum_of(manifest):
        raise BundleError(f"{path} is damaged: its SHA-256 is not the one that it names")
    return manifest


def _sum_of(manifest: Manifest) -> str:
    return hashlib.sha256(msgspec.json.encode(dataclasses.replace(manifest, manifest_sha256=""))).hexdigest()


def read_bundle(models: Path, name: str, version: int) -> Bundle:
    """Read a bundle and check every file against its sum.

    Raises:
        NotFoundError: There is no such version.
        BundleError: A file is missing or damaged, or the folder belongs to another model; the message names the file.
    """
    folder = bundle_folder(models, name, version)
    manifest = read_manifest(folder)
    if (manifest.name, manifest.version) != (name, version):
        raise BundleError(
            f"{folder / MANIFEST} is for {manifest.name} version {manifest.version}, not {name} version {version}"
        )
    for file, expected in manifest.files.items():
        path = folder / file
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{folder / MANIFEST} names {file!r}, which lies outside the bundle")
        if not path.is_file():
            raise BundleError(f"bundle file {path} is missing")
        if (actual := sha256_of(path)) != expected:
            raise BundleError(f"bundle file {path} is damaged: its SHA-256 is {actual}, expected {expected}")
    return Bundle(folder, manifest)


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with the sum of every file under ``folder``, and its own: the last step of making a bundle."""
    files = {str(p.relative_to(folder)): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    sealed = dataclasses.replace(manifest, files=files)
    sealed = dataclasses.replace(sealed, manifest_sha256=_sum_of(sealed))
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=2))
    return sealed


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write a vocabulary's entries, in index order, as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(vocabulary.entries))


def read_vocabulary(path: Path) -> Vocabulary:
    """Read what ``write_vocabulary`` wrote.

    Raises:
        BundleError: It is not a list of distinct integers or of distinct strings.
    """
    try:
        entries: Any = msgspec.json.decode(path.read_bytes(), type=list[int | str])  # Vocabulary refuses a mixture
        return Vocabulary(entries)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BundleError(f"vocabulary {path} is damaged: {error}") from None
