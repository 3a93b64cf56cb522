"""Recorded rows as traffic of a real server."""

import time
from pathlib import Path

import pandas as pd
import pytest

from driftwheel.bundle import bundle_folder, read_manifest
from driftwheel.errors import DataError
from driftwheel.wheel.connecting import connect
from driftwheel.wheel.replay import replay
from serving.front_door import running
from tests.serving.conftest import prepared_home


def test_rows_come_as_calls_with_labels_and_no_faster_than_asked(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    signature = read_manifest(bundle_folder(settings.models, "mf", 1)).signature
    rows = pd.DataFrame({"user_id": [7] * 30, "item_id": [10] * 30, str(signature.label): [4.0] * 29 + [None]})
    told: list[int] = []
    with running(settings) as (_, address), connect(settings, address.target) as client:
        began = time.monotonic()
        report = replay(client, "mf", signature, rows, rows_per_s=100.0, on_progress=told.append)
        took_s = time.monotonic() - began
        with pytest.raises(DataError, match="no column 'item_id'"):
            replay(client, "mf", signature, rows[["user_id"]])
    assert (report.sent, report.labelled, dict(report.failed), dict(report.by_version)) == (30, 29, {}, {1: 30})
    assert took_s >= 0.29
    assert told[-1] == 30
