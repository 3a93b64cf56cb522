"""An archive for TorchServe: what is in it, that the same bundle makes the same bytes, and what is refused."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from driftwheel.bundle import Bundle, list_models, list_versions
from driftwheel.errors import BundleError, ConfigurationError, ExportError
from exporters import archive
from exporters.archive import archive_path, write_archive
from tests.bundles import make_churn_bundle, make_rating_bundle

needs_archiver = pytest.mark.skipif(
    importlib.util.find_spec("model_archiver") is None, reason="needs torch-model-archiver"
)
OURS = {
    "driftwheel_adapter.py",
    "driftwheel_archive.py",
    "driftwheel_graph.py",
    "driftwheel_metrics.py",
    "driftwheel_metrics.yaml",
    "driftwheel_questions.py",
    "driftwheel_recommend.py",
    "driftwheel_requests.py",
}
ALWAYS = {"MAR-INF/MANIFEST.json", "archive.json", "bundle.json", "golden.npz", "model.onnx", *OURS}


@pytest.fixture
def mf(tmp_path: Path) -> Bundle:
    return make_rating_bundle(tmp_path, 3)


@needs_archiver
def test_what_a_rating_models_archive_holds(mf: Bundle, tmp_path: Path) -> None:
    path = write_archive(mf)
    assert path == archive_path(tmp_path, "mf", 3) == tmp_path / "mf/archives/mf-3.mar"
    with zipfile.ZipFile(path) as sealed:
        assert sealed.testzip() is None
        tables = {"factors/users.npy", "factors/items.npy", "factors/parameters.json", "seen.npz", "titles.json"}
        names = {"popularity.npy", "vocabulary/user_id.json", "vocabulary/item_id.json", "driftwheel_mf.py"}
        assert set(sealed.namelist()) == ALWAYS | tables | names
        assert json.loads(sealed.read("titles.json")) == ["Ten", "Twenty", "Thirty", None, "Fifty"]
        with sealed.open("popularity.npy") as file:
            assert np.load(file).tolist() == [3, 9, 1, 4, 2]


@needs_archiver
def test_the_manifest_names_the_bundle(mf: Bundle) -> None:
    checksum = hashlib.sha256((mf.folder / "bundle.json").read_bytes()).hexdigest()
    with zipfile.ZipFile(write_archive(mf)) as sealed:
        manifest = json.loads(sealed.read("MAR-INF/MANIFEST.json"))
        content = json.loads(sealed.read("archive.json"))
        sums = {file: hashlib.sha256(sealed.read(file)).hexdigest() for file in content["files"]}
        packed = set(sealed.namelist())
    assert manifest["model"] == {"modelName": "mf", "handler": "driftwheel_mf.py", "modelVersion": "3"}
    assert manifest["runtime"] == "python"
    assert manifest["createdOn"] == mf.manifest.created_at
    assert manifest["driftwheel"] == {"bundleSha256": checksum, "graph": "model.onnx"}
    assert (content["bundle_sha256"], content["graph"]) == (checksum, "model.onnx")
    assert content["files"] == sums
    assert packed - set(sums) == {"MAR-INF/MANIFEST.json", "archive.json", "driftwheel_mf.py", *OURS}


@needs_archiver
def test_a_churn_models_archive_has_its_own_handler_and_no_factors(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_archive(make_churn_bundle(tmp_path, 1))) as sealed:
        assert set(sealed.namelist()) == ALWAYS | {"driftwheel_churn.py", "vocabulary/contract.json"}


@needs_archiver
def test_the_same_bundle_makes_the_same_bytes_and_is_no_version(mf: Bundle, tmp_path: Path) -> None:
    path = write_archive(mf)
    first = path.read_bytes()
    os.utime(mf.folder / "model.onnx", (1, 1))
    assert write_archive(mf).read_bytes() == first
    assert list(path.parent.iterdir()) == [path]
    assert (list_models(tmp_path), list_versions(tmp_path, "mf")) == (["mf"], [3])


@needs_archiver
def test_several_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """torch-model-archiver deletes what bears the model's name in the temporary folder."""
    made = [make_rating_bundle(tmp_path, version, shift=version / 10) for version in (1, 2, 3, 4)]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(write_archive, made))
    for bundle, path in zip(made, paths, strict=True):
        with zipfile.ZipFile(path) as sealed:
            assert sealed.read("model.onnx") == bundle.path("model.onnx").read_bytes()


@needs_archiver
def test_a_bundle_without_that_graph(mf: Bundle) -> None:
    with pytest.raises(BundleError, match="has no model.ts"):
        write_archive(mf, runtime="torchscript")


@needs_archiver
def test_an_archiver_that_fails_leaves_the_archive_that_was_there(mf: Bundle, monkeypatch) -> None:
    path = write_archive(mf)
    before = path.read_bytes()
    monkeypatch.setattr(archive, "_ENTRY_FILES", {"rating": "driftwheel_mf.py", "churn": "driftwheel_churn.py"})
    monkeypatch.setattr(archive.sys, "executable", "/bin/false")
    with pytest.raises(ExportError, match="torch-model-archiver ended with code 1"):
        write_archive(mf)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_without_the_archiver(mf: Bundle, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "model_archiver", None)
    with pytest.raises(ConfigurationError, match="torch-model-archiver, which is not installed"):
        write_archive(mf)


@needs_archiver
def test_the_command_archives_a_bundle_that_is_there(tmp_path: Path) -> None:
    bundle = make_churn_bundle(tmp_path / "models", 2)
    command = [
        sys.executable,
        "-m",
        "driftwheel",
        "--home",
        str(tmp_path),
        "export",
        "churn",
        "2",
        "--format",
        "mar",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer == {"archive": str(tmp_path / "models/churn/archives/churn-2.mar"), "bundle": str(bundle.folder)}
    assert zipfile.is_zipfile(answer["archive"])
