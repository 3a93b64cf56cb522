"""One worker process of a study: ``python -m driftwheel.wheel.tuning_worker MODEL DATASET ESTIMATOR``, started by
``tuning_workers`` with the settings in its environment. Each line on standard output is a ``Progress``, as JSON.
"""

import signal
import sys
from pathlib import Path

import msgspec

from driftwheel.errors import DriftwheelError
from driftwheel.settings import load_settings
from driftwheel.wheel.search import Search
from training.data.dataset import read_dataset
from training.tuning.storage import reachable
from training.tuning.study import Progress

_INTERRUPTED = 130
_FAILED = 5


def _say(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.buffer.flush()


def main(model: str, dataset: str, estimator: str) -> int:
    """Work until the study is done; the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    try:
        search = Search(load_settings(), model, read_dataset(Path(dataset)), estimator)
        opened = search.open_storage()
        with reachable(opened):
            search.worker(search.open_study(opened), opened, _say).run()
    except DriftwheelError as error:
        sys.stderr.write(f"{error.message}\n")
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
