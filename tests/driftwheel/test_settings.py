from pathlib import Path

import pytest

from driftwheel.errors import ConfigurationError
from driftwheel.settings import RESOLVED_VARIABLE, load_settings


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings().serving.port == 8080
    Path("driftwheel.toml").write_text("[serving]\nport = 1111\nhost = '127.0.0.2'\n")
    assert load_settings().serving.port == 1111
    monkeypatch.setenv("DRIFTWHEEL_SERVING__PORT", "2222")
    assert load_settings().serving.port == 2222
    resolved = load_settings(serving={"port": 3333})
    assert (resolved.serving.port, resolved.serving.host) == (3333, "127.0.0.2")


def test_a_child_gets_exactly_its_parents_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = load_settings(home=tmp_path / "home", serving={"port": 4444})
    monkeypatch.setenv(RESOLVED_VARIABLE, parent.child_environment()[RESOLVED_VARIABLE])
    monkeypatch.setenv("DRIFTWHEEL_SERVING__PORT", "5555")
    assert load_settings().model_dump() == parent.model_dump()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DRIFTWHEEL_SERVING__PORT", "http", "serving.port: Input should be a valid integer"),
        ("DRIFTWHEEL_SERVING__PORT", "70000", "serving.port"),
        ("DRIFTWHEEL_LOG__SAMPLE", "2", "log.sample"),
        ("DRIFTWHEEL_SERVING__PROT", "1", "serving.prot"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=says) as caught:
        load_settings()
    assert value in caught.value.message


def test_a_file_that_is_absent_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_settings(config=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("port = = 1")
    with pytest.raises(ConfigurationError, match="not TOML"):
        load_settings(config=tmp_path / "bad.toml")
