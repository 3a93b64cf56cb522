from pathlib import Path

import pytest

from driftwheel.errors import ConfigurationError
from driftwheel.processes import RESOLVED_VARIABLE
from driftwheel.settings import load_settings


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


def test_a_models_own_limits_go_before_the_servers(tmp_path: Path) -> None:
    toml = tmp_path / "driftwheel.toml"
    toml.write_text(
        "[serving]\nmax_batch_rows = 9\nmax_queue_delay_ms = 2\n[serving.models.mf]\nmax_batch_rows = 5\nbackend = 'onnx'\n"
    )
    serving = load_settings(config=toml).serving
    own, other = serving.limits_for("mf"), serving.limits_for("churn")
    assert (own.max_batch_rows, own.max_queue_delay_ms, own.backend) == (5, 2, "onnx")
    assert (other.max_batch_rows, other.max_queue_delay_ms, other.backend) == (9, 2, "auto")
    assert own.max_rows_per_request == other.max_rows_per_request == serving.max_rows_per_request


def test_runs_that_are_calls_are_larger_unless_they_are_bounded() -> None:
    remote = {"films": {"backend": "torchserve"}, "mf": {"version_backends": {2: "torchserve"}}}
    serving = load_settings(serving={"models": remote}).serving
    versions = (("films", 1), ("mf", 1), ("mf", 2))
    assert [serving.limits_for(*one).max_batch_rows for one in versions] == [32_768, 8192, 32_768]
    bounded = load_settings(serving={"models": remote, "max_batch_rows": 100}).serving
    assert [bounded.limits_for(*one).max_batch_rows for one in versions] == [100, 100, 100]


@pytest.mark.parametrize(
    "faulty", [{"max_batch_rows": 0}, {"backend": "tensorflow"}, {"max_bach_rows": 1}, {"cuda_graph_rows": [0]}]
)
def test_a_models_faulty_limit_is_named(faulty: dict) -> None:
    with pytest.raises(ConfigurationError, match=f"serving.models.mf.{next(iter(faulty))}"):
        load_settings(serving={"models": {"mf": faulty}})


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ({"nodes": 2}, "training: .*nodes is 2: rendezvous must say as HOST:PORT where they meet"),
        ({"nodes": 2, "rendezvous": "somewhere"}, "training.rendezvous: .*got 'somewhere'"),
        ({"pipeline": True, "ranks": 4}, "training: .*pipeline wants 2 ranks in all, got 4 on each of 1 nodes"),
        ({"precision": "fp8"}, "training.precision: .*got 'fp8'"),
    ],
)
def test_training_settings_that_do_not_fit_together_are_named(training: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_settings(training=training)
    assert load_settings(training={"nodes": 2, "rendezvous": "one:29400"}).training.nodes == 2
