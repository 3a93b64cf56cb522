import io
import sys

import pytest
import structlog

from driftwheel.log import configure_logging


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_events_go_to_what_is_standard_error_now(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    structlog.get_logger().info("here", model="mf")
    assert '"event": "here"' in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["closed", "full"])
def test_a_standard_error_that_takes_nothing_ends_nothing(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Full() if broken == "full" else io.StringIO()
    configure_logging("console", "info")
    monkeypatch.setattr(sys, "stderr", stream)
    if broken == "closed":
        stream.close()
    structlog.get_logger().info("nobody reads this")
