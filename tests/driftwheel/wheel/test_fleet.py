"""A home that publishes, and homes that follow, over a folder and over a real S3."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftwheel.bundle import read_bundle
from driftwheel.errors import BundleError, ConfigurationError, DataError, NotFoundError, RolloutError
from driftwheel.log_layout import feedback_folder
from driftwheel.refusals import drop_refusal, read_refusal, write_refusal
from driftwheel.rollout import Rollout, abort, promote, read_rollout, serve_stable, start_candidate
from driftwheel.settings import Settings, load_settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.fleet import Moved, follow, publish
from driftwheel.wheel.fleet_store import Store
from driftwheel.wheel.judging import look
from tests.serving.conftest import BY, prepared_home
from tests.training.tuning import servers

KEYS = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return prepared_home(tmp_path / "home")


@pytest.fixture
def server(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "server")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_a_follower_gets_what_the_rollouts_name_and_no_more(home: Settings, server: Settings, store: Store) -> None:
    assert publish(home, store) == Moved(("churn 1", "mf 1"), ("churn", "mf"), 0)
    assert follow(server, store, host="a") == Moved(("churn 1", "mf 1"), ("churn", "mf"), 0)
    assert read_bundle(server.models, "mf", 1).manifest == read_bundle(home.models, "mf", 1).manifest
    assert sorted(entry.name for entry in server.models.iterdir()) == ["churn", "mf"]
    assert publish(home, store) == follow(server, store, host="a") == Moved((), (), 0)


def test_a_trial_reaches_the_follower_with_its_bundle(home: Settings, server: Settings, store: Store) -> None:
    publish(home, store)
    follow(server, store, host="a")
    start_candidate(home.rollouts, "mf", 2, steps=(0.5, 1.0), **BY)
    publish(home, store)
    assert follow(server, store, host="a") == Moved(("mf 2",), ("mf",), 0)
    assert read_rollout(server.rollouts, "mf") == read_rollout(home.rollouts, "mf")


def test_a_follower_lets_go_of_versions_that_are_no_longer_named(
    home: Settings, server: Settings, store: Store, tmp_path: Path
) -> None:
    publish(home, store)
    start_candidate(home.rollouts, "mf", 2, steps=(0.5, 1.0), **BY)
    publish(home, store)
    follow(server, store, host="a")
    promote(home.rollouts, "mf", **BY)
    publish(home, store)
    assert follow(server, store, host="a", keep=1).removed == ()
    shutil.copytree(server.models / "mf/1", tmp_path / "kept")
    assert follow(server, store, host="a", keep=0).removed == ("mf 1",)
    assert [entry.name for entry in (server.models / "mf").iterdir()] == ["2"]
    assert sorted(entry.name for entry in server.models.iterdir()) == ["churn", "mf"]
    # One that the store does not have is somebody's own, and stays.
    (tmp_path / "store/models/mf/1/bundle.json").unlink()
    shutil.copytree(tmp_path / "kept", server.models / "mf/1")
    assert follow(server, store, host="a", keep=0).removed == ()
    assert read_bundle(server.models, "mf", 1).version == 1


def test_a_version_that_is_named_again_comes_again(home: Settings, server: Settings, store: Store) -> None:
    publish(home, store)
    follow(server, store, host="a")
    serve_stable(home.rollouts, "mf", 2, **BY)
    publish(home, store)
    assert follow(server, store, host="a", keep=0).removed == ("mf 1",)
    serve_stable(home.rollouts, "mf", 1, **BY)
    publish(home, store)
    assert follow(server, store, host="a", keep=0) == Moved(("mf 1",), ("mf",), 0, ("mf 2",))
    assert read_bundle(server.models, "mf", 1).version == 1


def test_what_was_damaged_on_its_way_changes_nothing_here(
    home: Settings, server: Settings, store: Store, tmp_path: Path
) -> None:
    publish(home, store)
    (tmp_path / "store/models/mf/1/model.onnx").write_bytes(b"half of i")
    with pytest.raises(BundleError, match=r"model\.onnx is damaged"):
        follow(server, store, host="a")
    assert not (server.models / "mf").exists()
    assert not (server.rollouts / "mf.json").exists()
    assert not [entry for entry in server.models.iterdir() if entry.name.startswith(".")]


def test_one_damaged_model_holds_up_neither_the_others_nor_the_log(
    home: Settings, server: Settings, store: Store, tmp_path: Path
) -> None:
    publish(home, store)
    (tmp_path / "store/rollouts/churn.json").write_bytes(b'{"model": "ch')
    segment = feedback_folder(server.prediction_log) / "1.parquet"
    segment.parent.mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), segment)
    with pytest.raises(RolloutError, match=r"churn\.json"):
        follow(server, store, host="a")
    assert read_rollout(server.rollouts, "mf").stable == 1
    assert not segment.exists()
    (home.rollouts / "churn.json").write_bytes(b"{")
    half = tmp_path / "store/log/feedback/.tmp-1.parquet"
    half.write_bytes(b"half of i")
    with pytest.raises(RolloutError, match=r"churn\.json"):
        publish(home, store)
    (fetched,) = home.prediction_log.rglob("*.parquet")
    assert pq.read_table(fetched).num_rows == 1
    assert half.exists()


def test_an_empty_store_and_an_unknown_scheme_are_told_apart(server: Settings, store: Store) -> None:
    with pytest.raises(NotFoundError, match="has no rollout"):
        follow(server, store, host="a")
    with pytest.raises(ConfigurationError, match="nosuch"):
        Store("nosuch://bucket/home")


def test_logs_of_two_servers_come_home_side_by_side(
    home: Settings, server: Settings, store: Store, tmp_path: Path
) -> None:
    publish(home, store)
    other = load_settings(home=tmp_path / "other")
    for settings, label in ((server, 1.0), (other, 2.0)):
        folder = feedback_folder(settings.prediction_log)
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"label": [label]}), folder / "20260101T000000-7-0.parquet")
        (folder / "20260101T000001-7-1.arrows").write_bytes(b"still open")
    assert [follow(server, store, host="a").segments, follow(other, store, host="b").segments] == [1, 1]
    assert publish(home, store).segments == 2
    came = sorted(feedback_folder(home.prediction_log).glob("*.parquet"))
    assert [pq.read_table(path)["label"].to_pylist() for path in came] == [[1.0], [2.0]]
    assert not list(server.prediction_log.rglob("*.parquet"))
    assert len(list(server.prediction_log.rglob("*.arrows"))) == 1
    assert publish(home, store).segments == 0


def trial_of(home: Settings, server: Settings, store: Store) -> Rollout:
    """Version 2 on trial, published and followed by the host ``shop-7``."""
    rollout = start_candidate(home.rollouts, "mf", 2, steps=(0.5, 1.0), by="test", now=now())
    publish(home, store)
    follow(server, store, host="shop-7")
    return rollout


def test_the_judge_aborts_what_a_follower_could_not_load(home: Settings, server: Settings, store: Store) -> None:
    rollout = trial_of(home, server, store)
    write_refusal(server.refusals, rollout, "no graph at all")
    assert follow(server, store, host="shop-7").refusals == publish(home, store).refusals == ("mf 2 on shop-7",)
    assert follow(server, store, host="shop-7") == publish(home, store) == Moved((), (), 0)
    verdict, after = look(home, "mf")
    assert (verdict.decision, after.candidate) == ("ABORT", None)
    assert verdict.reasons == ("refused at load: no graph at all (on shop-7)",)
    # The trial is over, and what was said of it leaves the store and the home, whoever looks first.
    publish(home, store)
    follow(server, store, host="shop-7")
    assert not store.under("refusals")
    assert not list(home.refusals.rglob("*.json"))


def test_what_loads_after_all_is_held_against_nobody(home: Settings, server: Settings, store: Store) -> None:
    rollout = trial_of(home, server, store)
    write_refusal(server.refusals, rollout, "damaged")
    follow(server, store, host="shop-7")
    publish(home, store)
    assert read_refusal(home.refusals, rollout) == "damaged (on shop-7)"
    drop_refusal(server.refusals, rollout)
    follow(server, store, host="shop-7")
    publish(home, store)
    assert read_refusal(home.refusals, rollout) is None
    assert look(home, "mf")[0].decision == "HOLD"


def test_what_hosts_say_of_another_trial_counts_no_more(
    home: Settings, server: Settings, store: Store, tmp_path: Path
) -> None:
    other = load_settings(home=tmp_path / "other")
    rollout = trial_of(home, server, store)
    for settings, host in ((server, "shop-7"), (other, "shop-8")):
        follow(settings, store, host=host)
        write_refusal(settings.refusals, rollout, "damaged")
        follow(settings, store, host=host)
    publish(home, store)
    assert read_refusal(home.refusals, rollout) == "damaged (on shop-7 and 1 more)"
    abort(home.rollouts, "mf", **BY)
    again = start_candidate(home.rollouts, "mf", 2, steps=(0.5, 1.0), by="test", now=now())
    publish(home, store)  # both hosts are gone for good, and leave nothing behind
    assert read_refusal(home.refusals, again) is None
    assert not store.under("refusals")


def test_a_damaged_refusal_is_named_and_the_others_come(
    home: Settings, server: Settings, store: Store, tmp_path: Path
) -> None:
    rollout = trial_of(home, server, store)
    write_refusal(server.refusals, rollout, "damaged")
    follow(server, store, host="shop-7")
    (tmp_path / "store/refusals/a/mf").mkdir(parents=True)
    (tmp_path / "store/refusals/a/mf/2.json").write_bytes(b"{")
    (tmp_path / "store/refusals/readme").write_bytes(b"{")
    with pytest.raises(DataError, match=r"refusals/a/mf/2\.json is damaged"):
        publish(home, store)
    assert read_refusal(home.refusals, rollout) == "damaged (on shop-7)"


def test_a_host_cannot_be_called_what_no_file_can(server: Settings, store: Store) -> None:
    with pytest.raises(ConfigurationError, match=r"--host '\.\./a'"):
        follow(server, store, host="../a")


@pytest.fixture
def bucket(tmp_path: Path) -> Generator[dict[str, str]]:
    """The environment of commands that reach an S3 with an empty bucket ``homes``."""
    import boto3

    port = servers.free_port()
    with servers.running([sys.executable, "-m", "moto.server", "-p", str(port)], port, tmp_path / "s3.log"):
        endpoint = f"http://127.0.0.1:{port}"
        keys = {"aws_access_key_id": "anybody", "aws_secret_access_key": "anything", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, **keys)
        client.create_bucket(Bucket="homes")
        client.close()
        yield {**os.environ, **KEYS, "AWS_ENDPOINT_URL": endpoint}


@pytest.mark.system
def test_the_commands_over_s3_and_the_last_look_after_sigterm(
    home: Settings, server: Settings, bucket: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "driftwheel", "--home"]
    url = "s3://homes/prod"
    rollout = start_candidate(home.rollouts, "mf", 2, steps=(0.5, 1.0), **BY)
    done = subprocess.run([*command, home.home, "fleet", "publish", url, "--json"], env=bucket, capture_output=True)
    assert json.loads(done.stdout)["bundles"] == ["churn 1", "mf 1", "mf 2"], done.stderr
    follower = subprocess.Popen(
        [*command, server.home, "fleet", "follow", url, "--every-s", "0.3", "--host", "a"], env=bucket
    )
    try:
        give_up = time.monotonic() + 60
        while not (server.rollouts / "mf.json").exists():
            assert follower.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.02)
        follower.send_signal(signal.SIGSTOP)  # what is logged now is there at the last look only
        folder = feedback_folder(server.prediction_log)
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"label": [3.0]}), folder / "20260101T000000-7-0.parquet")
        write_refusal(server.refusals, rollout, "no graph at all")
        follower.send_signal(signal.SIGTERM)
        follower.send_signal(signal.SIGCONT)
        assert follower.wait(60) == 0
    finally:
        follower.kill()
        follower.wait()
    done = subprocess.run([*command, home.home, "fleet", "publish", url, "--json"], env=bucket, capture_output=True)
    moved = {"bundles": [], "rollouts": [], "segments": 1, "removed": [], "refusals": ["mf 2 on a"]}
    assert json.loads(done.stdout) == moved, done.stderr
    assert read_refusal(home.refusals, rollout) == "no graph at all (on a)"
    assert read_bundle(server.models, "mf", 1).version == 1


@pytest.mark.system
def test_a_store_that_cannot_be_reached_is_one_clear_message(server: Settings) -> None:
    environment = {**os.environ, **KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{servers.free_port()}"}
    environment |= {"AWS_MAX_ATTEMPTS": "1"}
    command = [sys.executable, "-m", "driftwheel", "--home", server.home, "fleet", "follow", "s3://homes/prod"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the store s3://homes/prod cannot be used: " in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
