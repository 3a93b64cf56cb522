"""What Alertmanager sends is read; what is no notification is refused with the field's name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.errors import InvalidRequestError
from monitoring.alert_webhook import parse_notification


def notification(**changes: Any) -> dict[str, Any]:
    """As Alertmanager writes it, shortened."""
    alert = {
        "status": "firing",
        "labels": {"alertname": "DriftwheelRetrainWanted", "model": "mf", "action": "retrain"},
        "annotations": {"summary": "…"},
        "startsAt": "2026-01-02T03:04:05.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://localhost:9090/graph",
        "fingerprint": "c4f8a1b2c3d4e5f6",
    }
    return {"version": "4", "receiver": "retrain", "status": "firing", "alerts": [{**alert, **changes}]}


def parsed(content: Any) -> Any:
    return parse_notification(json.dumps(content).encode())


def test_an_alert_names_its_model_and_one_firing():
    (alert,) = parsed(notification())
    assert (alert.name, alert.model, alert.status) == ("DriftwheelRetrainWanted", "mf", "firing")
    (again,) = parsed(notification())
    (later,) = parsed(notification(startsAt="2026-01-03T03:04:05Z"))
    assert alert.reason == again.reason != later.reason


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({**notification(), "version": "3"}, "version must be '4', got '3'"),
        ({"version": "4"}, "alerts"),
        ([], "no notification"),
        (notification(labels={"alertname": "A"}), "alerts[0].labels.model must be a name, got None"),
        (notification(labels={"alertname": "A", "model": "../x"}), "labels.model must be a name, got '../x'"),
        (notification(labels={"model": "mf"}), "labels.alertname"),
        (notification(fingerprint="a b"), "alerts[0].fingerprint"),
        (notification(startsAt="today\nand"), "alerts[0].startsAt must be a time"),
        (notification(status="odd"), "status"),
    ],
)
def test_what_is_refused(content: Any, named: str):
    with pytest.raises(InvalidRequestError) as caught:
        parsed(content)
    assert named in caught.value.message


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes):
    with pytest.raises(InvalidRequestError):
        parse_notification(body)
