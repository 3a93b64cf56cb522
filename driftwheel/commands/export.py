"""``driftwheel export``: a registered version to a bundle."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from driftwheel.commands.common import PEOPLE, Json, ModelName, answer_json, resolved


def export(
    ctx: typer.Context,
    model: ModelName,
    version: Annotated[int, typer.Argument(help="The registered version.")],
    *,
    dataset: Annotated[
        Path | None, typer.Option(help="The prepared dataset that it was trained on. Default: found in the home.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a registered version to ONNX and TorchScript, prove parity with eager PyTorch, and write its bundle.

    The weights come from the MLflow run; the dataset gives vocabularies, the item catalogue and the reference. A bundle that
    is there and whole is left as it is.
    """
    from driftwheel.errors import DataError
    from driftwheel.wheel.lifecycle import export_version, find_dataset
    from driftwheel.wheel.progress import SILENT, reporter_for
    from training.data.dataset import read_dataset
    from training.registry import Registry

    settings = resolved(ctx)
    registry = Registry(settings)
    run_id = registry.run_of(model, version)
    with TemporaryDirectory() as folder:
        trained = registry.trained_model(model, version, Path(folder) / "weights")
        prepared = find_dataset(settings, trained.fingerprint) if dataset is None else read_dataset(dataset)
        if trained.fingerprint != prepared.fingerprint:
            raise DataError(
                f"version {version} of {model} was trained on data {trained.fingerprint[:12]}, "
                f"{dataset} is {prepared.fingerprint[:12]}"
            )
        reporter = SILENT if as_json else reporter_for(PEOPLE)
        bundle = export_version(settings, model, version, run_id, trained, prepared, reporter)
    if as_json:
        answer_json({"bundle": bundle.folder, "files": bundle.manifest.files})
    else:
        PEOPLE.print(str(bundle.folder), highlight=False)
