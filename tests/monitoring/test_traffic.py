from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from monitoring.traffic import read_traffic
from monitoring.windows import read_feedback, read_predictions, with_labels
from tests.monitoring.worlds import RATING, START, log_rows, write_feedback, write_open, write_sealed


def ratings(rows, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "in_user_id": rng.integers(0, 99, rows),
            "in_item_id": rng.integers(0, 9, rows),
            "out_rating": rng.random(rows),
        }
    )


def traffic(log, **changes):
    return read_traffic(log, "m", version=1, signature=RATING, **changes)


@pytest.fixture
def log(tmp_path):
    """Requests of three rows each, out of order over two segments, of several kinds; labels for some, some of them twice."""
    rng = np.random.default_rng(1)
    for part, write in enumerate((write_sealed, write_open)):
        request = np.arange(300) // 3 + 100 * part
        minutes = rng.permutation(200)[request % 200]
        common = {
            "prediction_id": [f"p{number}" for number in request],
            "row": np.arange(300, dtype=np.int32) % 3,
            "at": [START + timedelta(minutes=int(minute)) for minute in minutes],
            "arm": ["pinned" if number % 7 == 0 else "candidate" for number in request],
            "kind": ["recommend" if number % 11 == 0 else "infer" for number in request],
            "code": ["INTERNAL" if number % 13 == 0 else "OK" for number in request],
        }
        write(tmp_path, "m", 1, log_rows(ratings(300, part), RATING, **common), stem=f"20260101T000000-1-{part}")
    labelled = [f"p{number}" for number in range(0, 220, 2)]
    write_feedback(tmp_path, "m", labelled, list(np.arange(110.0)), rows=[number % 3 for number in range(110)])
    again = {"at": START + timedelta(hours=1), "stem": "20260101T000000-1-1"}
    write_feedback(tmp_path, "m", labelled[:60], [*np.arange(50.0) + 500, *[float("nan")] * 10],
                   rows=[number % 3 for number in range(60)], **again)  # fmt: skip
    write_feedback(tmp_path, "other", labelled, [9.0] * 110, at=START + timedelta(hours=2), stem="20260101T000000-1-2")
    return tmp_path


@pytest.mark.parametrize("since", [None, (START + timedelta(minutes=30)).isoformat()])
def test_it_is_what_the_tables_say_row_by_row(log, since):
    rows = read_predictions(log, "m", version=1, since=since)
    rows = rows[(rows["kind"] == "infer") & (rows["code"] == "OK") & (rows["arm"] != "pinned")]
    expected = with_labels(rows, read_feedback(log, "m", since=since))
    found = traffic(log, since=since)
    assert list(found) == ["at", "in_user_id", "in_item_id", "out_rating", "label"]
    assert len(found) > 200
    assert found["label"].notna().sum() > 20
    pd.testing.assert_frame_equal(found, expected[list(found)].reset_index(drop=True), check_dtype=False)


def test_without_labels_and_without_rows(tmp_path):
    nothing = traffic(tmp_path)
    assert (len(nothing), list(nothing)) == (0, ["at", "label"])
    write_sealed(tmp_path, "m", 1, log_rows(ratings(5), RATING))
    found = traffic(tmp_path)
    assert len(found) == 5
    assert found["label"].isna().all()


def test_a_log_of_other_kinds_only_is_empty(tmp_path):
    write_sealed(tmp_path, "m", 1, log_rows(ratings(5), RATING, kind=["recommend"] * 5))
    assert traffic(tmp_path).empty
