"""``driftwheel export``: a registered version to a bundle, or to an archive for TorchServe."""

from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from driftwheel.commands.common import PEOPLE, Json, ModelName, answer_json, resolved

if TYPE_CHECKING:
    from driftwheel.bundle import Bundle
    from driftwheel.settings import Settings


class Format(StrEnum):
    """What is written."""

    BUNDLE = "bundle"
    MAR = "mar"


class Runtime(StrEnum):
    """What runs the graph of an archive."""

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"


def export(
    ctx: typer.Context,
    model: ModelName,
    version: Annotated[int, typer.Argument(help="The registered version.")],
    *,
    dataset: Annotated[
        Path | None, typer.Option(help="The prepared dataset that it was trained on. Default: found in the home.")
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="bundle; or mar: the bundle, and an archive of it for TorchServe.")
    ] = Format.BUNDLE,
    runtime: Annotated[
        Runtime,
        typer.Option(
            help="What runs an archive's graph: onnx (onnxruntime beside TorchServe) or torchscript (PyTorch)."
        ),
    ] = Runtime.ONNX,
    as_json: Json = False,
) -> None:
    """Export a registered version to ONNX and TorchScript, prove parity with eager PyTorch, and write its bundle.

    The weights come from the MLflow run; the dataset gives vocabularies, the item catalogue and the reference. A bundle that
    is there and whole is left as it is; an archive of it takes neither weights nor data.
    """
    from driftwheel.bundle import read_bundle
    from driftwheel.errors import BundleError, NotFoundError
    from exporters.archive import write_archive

    settings = resolved(ctx)
    if format_ is Format.BUNDLE:
        bundle = _exported(settings, model, version, dataset, quiet=as_json)
        written, answer = bundle.folder, {"bundle": bundle.folder, "files": bundle.manifest.files}
    else:
        try:
            bundle = read_bundle(settings.models, model, version)
        except (BundleError, NotFoundError):
            bundle = _exported(settings, model, version, dataset, quiet=as_json)
        written = write_archive(bundle, runtime=runtime.value)
        answer = {"archive": written, "bundle": bundle.folder}
    if as_json:
        answer_json(answer)
    else:
        PEOPLE.print(str(written), highlight=False)


def _exported(settings: "Settings", model: str, version: int, dataset: Path | None, *, quiet: bool) -> "Bundle":
    """The version's bundle, written if it is not there.

    Raises:
        DataError: The dataset is not the one that the version was trained on.
    """
    from driftwheel.errors import DataError
    from driftwheel.wheel.lifecycle import export_version, find_dataset
    from driftwheel.wheel.progress import SILENT, reporter_for
    from training.data.dataset import read_dataset
    from training.registry import Registry

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
        reporter = SILENT if quiet else reporter_for(PEOPLE)
        return export_version(settings, model, version, run_id, trained, prepared, reporter)
