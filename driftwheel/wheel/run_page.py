"""The page of a version's training run, kept in the home beside its drift reports."""

from pathlib import Path
from tempfile import TemporaryDirectory

from driftwheel.files import write_atomically
from driftwheel.names import check_name
from driftwheel.settings import Settings


def page_path(settings: Settings, model: str, version: int) -> Path:
    """Where a version's page lies, whether or not it is there."""
    return settings.reports / check_name(model) / f"training-{version}.html"


def keep_page(settings: Settings, model: str, version: int, run_id: str) -> Path | None:
    """Copy the page that MLflow has of a run into the home, or find it copied; None of a run that has none."""
    from training.run_record import fetch_file
    from training.run_report import FILE

    path = page_path(settings, model, version)
    if not path.exists():
        with TemporaryDirectory() as folder:
            page = fetch_file(settings, run_id, FILE, Path(folder))
            if page is None:
                return None
            write_atomically(path, page.read_bytes())
    return path
