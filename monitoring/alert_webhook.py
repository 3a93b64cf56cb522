"""What Alertmanager posts to a webhook (version 4 of its format): the alerts in it, read and checked."""

from typing import Literal

import msgspec

from driftwheel.errors import InvalidRequestError
from driftwheel.names import is_name
from monitoring.segments import moment

FORMAT = "4"
MOST_BYTES = 2**20
"""Alertmanager groups alerts by model here: a body is a few kilobytes."""


class Alert(msgspec.Struct, frozen=True, rename="camel"):
    """One alert of a notification."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    starts_at: str
    fingerprint: str
    """Of its labels: the same for as long as the alert is the same."""

    @property
    def model(self) -> str:
        return self.labels["model"]

    @property
    def name(self) -> str:
        return self.labels["alertname"]

    @property
    def reason(self) -> str:
        """Why a retrain starts, for the ledger; it tells one firing of an alert from every other."""
        return f"alert: {self.name} ({self.fingerprint} since {self.starts_at})"


class _Notification(msgspec.Struct, frozen=True):
    version: str
    alerts: tuple[Alert, ...]


def parse_notification(body: bytes) -> tuple[Alert, ...]:
    """The alerts of a notification.

    Raises:
        InvalidRequestError: It is none, or an alert names no model; the message says which field.
    """
    try:
        notification = msgspec.json.decode(body, type=_Notification)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"this is no notification of Alertmanager: {error}") from None
    if notification.version != FORMAT:
        raise InvalidRequestError(f"version must be {FORMAT!r}, got {notification.version!r}")
    for number, alert in enumerate(notification.alerts):
        for label in ("alertname", "model"):
            if not is_name(alert.labels.get(label, "")):
                got = alert.labels.get(label)
                raise InvalidRequestError(f"alerts[{number}].labels.{label} must be a name, got {got!r}")
        if not alert.fingerprint.isalnum():
            got = alert.fingerprint
            raise InvalidRequestError(f"alerts[{number}].fingerprint must be letters and digits, got {got!r}")
        try:
            moment(alert.starts_at)
        except ValueError:
            raise InvalidRequestError(f"alerts[{number}].startsAt must be a time, got {alert.starts_at!r}") from None
    return notification.alerts
