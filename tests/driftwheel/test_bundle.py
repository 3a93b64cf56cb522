import hashlib
from pathlib import Path

import msgspec
import pytest

from driftwheel.bundle import MANIFEST, bundle_folder, list_models, list_versions, read_bundle
from driftwheel.errors import BundleError, NotFoundError
from driftwheel.files import published_folder
from tests.bundles import make_rating_bundle


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_rating_bundle(folder, 1)
    return folder


def test_what_is_written_is_read_back(models: Path) -> None:
    bundle = read_bundle(models, "mf", 1)
    assert bundle.manifest.signature.key_input == "user_id"
    assert len(bundle.vocabularies()["item_id"]) == 5
    assert (list_models(models), list_versions(models, "mf")) == (["mf"], [1])


@pytest.mark.parametrize(
    "file", ["model.onnx", "golden.npz", "reference.parquet", "items.parquet", "vocabulary/user_id.json"]
)
def test_one_flipped_bit_in_any_file_is_named(tmp_path: Path, file: str) -> None:
    make_rating_bundle(tmp_path, 1)
    path = bundle_folder(tmp_path, "mf", 1) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{file} is damaged"):
        read_bundle(tmp_path, "mf", 1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    make_rating_bundle(tmp_path, 1)
    (bundle_folder(tmp_path, "mf", 1) / "seen.npz").unlink()
    with pytest.raises(BundleError, match=r"seen\.npz is missing"):
        read_bundle(tmp_path, "mf", 1)


def test_a_manifest_cut_short_or_of_another_version_is_refused(tmp_path: Path) -> None:
    make_rating_bundle(tmp_path, 1)
    folder = bundle_folder(tmp_path, "mf", 1)
    whole = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match=r"bundle\.json is damaged"):
        read_bundle(tmp_path, "mf", 1)
    (folder / MANIFEST).write_bytes(whole)
    folder.rename(folder.with_name("2"))
    with pytest.raises(BundleError, match="is for mf version 1, not mf version 2"):
        read_bundle(tmp_path, "mf", 2)


@pytest.mark.parametrize("change", [(b'"label_high": 5.0', b'"label_high": 4.0'), (b'"user_id"', b'"user_ie"')])
def test_one_changed_byte_in_the_manifest_is_named(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    make_rating_bundle(tmp_path, 1)
    path = bundle_folder(tmp_path, "mf", 1) / MANIFEST
    assert change[0] in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(*change, 1))
    with pytest.raises(BundleError, match=r"bundle\.json is damaged"):
        read_bundle(tmp_path, "mf", 1)


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    make_rating_bundle(tmp_path, 1)
    path = bundle_folder(tmp_path, "mf", 1) / MANIFEST
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["files"]["../../../etc/hostname"] = "0" * 64
    manifest["manifest_sha256"] = ""
    manifest["manifest_sha256"] = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()
    path.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(BundleError, match="outside the bundle"):
        read_bundle(tmp_path, "mf", 1)


def test_absent_bundles_and_odd_names(models: Path) -> None:
    with pytest.raises(NotFoundError, match="no bundle at"):
        read_bundle(models, "mf", 9)
    with pytest.raises(BundleError, match="model name"):
        bundle_folder(models, "../mf", 1)


def test_a_folder_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "1"
    with pytest.raises(RuntimeError), published_folder(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert not target.exists()
    assert list((tmp_path / "a").iterdir()) == []
