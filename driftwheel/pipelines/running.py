"""What every component does around its step: settings, what people see, and files for artifacts."""

import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from driftwheel.errors import DataError
from driftwheel.files import published_folder, replaced, write_atomically
from driftwheel.log import configure_logging
from driftwheel.settings import Settings, load_settings
from driftwheel.wheel.progress import LineReporter, Reporter

if TYPE_CHECKING:
    from training.job import TrainedModel


def begin(home: str) -> tuple[Settings, Reporter]:
    """The settings of a step, and its reporter. A step that is told to end does so as by Ctrl-C: ranks save.

    Raises:
        ConfigurationError: A setting does not fit.
    """
    from rich.console import Console

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = load_settings(home=Path(home))
    configure_logging(settings.log_format, settings.log_level)
    return settings, LineReporter(Console(stderr=True, markup=False))


def keep_text(text: str, path: str) -> None:
    """Make a text an artifact's content."""
    write_atomically(Path(path), text.encode())


def keep_file(file: Path, path: str) -> None:
    """Make a copy of a file an artifact's content."""
    with replaced(Path(path)) as temporary:
        shutil.copyfile(file, temporary)


def keep_folder(folder: Path, path: str) -> None:
    """Make a copy of a folder an artifact's content."""
    with published_folder(Path(path)) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)


def trained_in(path: str) -> "TrainedModel":
    """The trained model that is an artifact's content.

    Raises:
        TrainingError: It is missing or damaged.
    """
    from training.job import read_trained

    return read_trained(Path(path))


def write_champion(metrics: dict[str, float] | None, path: str) -> None:
    """Keep what the version in service reaches beside the metrics of the new one, which are the artifact's metadata."""
    write_atomically(Path(path), msgspec.json.encode(metrics))


def read_champion(path: str) -> dict[str, float] | None:
    """Read what ``write_champion`` wrote.

    Raises:
        DataError: It is missing or damaged.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=dict[str, float] | None)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"the evaluation in {path} is missing or damaged: {error}") from None
