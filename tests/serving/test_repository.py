"""Loading and unloading, in process and beside a running server."""

import asyncio
import http.client
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest

from driftwheel.bundle import ONNX_GRAPH, bundle_folder
from driftwheel.contracts import Arm
from driftwheel.errors import InvalidRequestError, NotFoundError, UnavailableError
from driftwheel.files import published_folder
from driftwheel.rollout import abort, promote, serve_stable, start_candidate
from driftwheel.settings import Settings, load_settings
from driftwheel.vocabulary import Vocabulary
from serving import runtime
from serving.front_door import running
from serving.wishes import change_wish
from tests import bundles
from tests.serving.backends.contract import resident_mb
from tests.serving.conftest import BY, prepared_home
from tests.serving.repository_worker import Worker, run, set_forward, until, worker
from tests.serving.test_server import Traffic


def test_a_version_beside_the_rollout_answers_who_pins_it_and_nobody_else(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        with pytest.raises(NotFoundError, match="no loaded version 2; loaded: 1"):
            one.repository.model("mf").pinned(2)
        await one.repository.load("mf", 2)
        model = one.repository.model("mf")
        assert (model.pinned(2).version, model.arms()) == (2, {1: Arm.STABLE, 2: Arm.PINNED})
        assert {model.route(str(user).encode())[0].version for user in range(50)} == {1}
        await one.repository.load("mf", 2)
        assert one.repository.model("mf").pinned(2) is model.pinned(2)
        await one.repository.unload("mf", 2)
        assert one.states() == {1: "READY"}
        with pytest.raises(NotFoundError, match="version 2 of 'mf' is not loaded"):
            await one.repository.unload("mf", 2)

    run(tmp_path, check)


def test_a_version_of_the_rollout_is_unloaded_by_changing_the_rollout(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        start_candidate(settings.rollouts, "mf", 2, **BY)
        await one.repository.sync()
        for version in (1, 2):
            with pytest.raises(
                InvalidRequestError, match=f"version {version} of 'mf' is in its rollout.*change the roll"
            ):
                await one.repository.unload("mf", version)
        assert one.states() == {1: "READY", 2: "READY"}

    run(tmp_path, check)


def test_an_unloaded_model_stays_out_whatever_its_rollout_does_until_it_is_loaded(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        await one.repository.load("mf", 2)
        await one.repository.unload("mf", None)
        assert (one.states(), one.repository.ready) == ({1: "UNAVAILABLE"}, True)
        serve_stable(settings.rollouts, "mf", 2, **BY)
        await one.repository.sync()
        with pytest.raises(UnavailableError, match="model 'mf' has been unloaded"):
            one.repository.model("mf")
        with pytest.raises(UnavailableError, match="has been unloaded"):
            await one.repository.load("mf", 1)
        await one.repository.load("mf", None)
        assert one.states() == {2: "READY"}

    run(tmp_path, check)


def test_a_server_without_any_loaded_model_is_not_ready(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        for name in ("mf", "churn"):
            await one.repository.unload(name, None)
        assert not one.repository.ready
        await one.repository.load("churn", 1)  # a version of the rollout: the same as none named
        assert one.repository.ready

    run(tmp_path, check)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        for version in (9, 0, -1, 10**12):
            with pytest.raises(NotFoundError, match=f"model 'mf' has no version {version}"):
                await one.repository.load("mf", version)
        for name in ("other", "../mf", ""):
            with pytest.raises(NotFoundError, match="no rollout names the model"):
                await one.repository.load(name, None)
            with pytest.raises(NotFoundError, match="no rollout names the model"):
                await one.repository.unload(name, None)

    run(tmp_path, check)


def damage(settings: Settings, version: int) -> Callable[[], object]:
    """Damage a graph; what is returned puts it right."""
    path = bundle_folder(settings.models, "mf", version) / ONNX_GRAPH
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    return lambda: path.write_bytes(whole)


def test_a_damaged_version_is_refused_with_its_reason_and_not_asked_of_others(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        damage(settings, 2)
        with pytest.raises(UnavailableError, match=r"version 2 of 'mf' cannot be loaded: .*model.onnx is damaged"):
            await one.repository.load("mf", 2)
        async with worker(settings) as other:
            assert other.states() == one.states() == {1: "READY"}

    run(tmp_path, check)


def test_loading_tries_a_refused_candidate_again_at_once(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        repair = damage(settings, 2)
        start_candidate(settings.rollouts, "mf", 2, **BY)
        await one.repository.sync()
        with pytest.raises(UnavailableError, match=r"'mf' cannot be loaded: .*model.onnx is damaged"):
            await one.repository.load("mf", None)
        repair()
        await one.repository.sync()  # it was refused a moment ago and is left alone
        assert one.states() == {1: "READY", 2: "UNAVAILABLE"}
        await one.repository.load("mf", None)
        assert one.states() == {1: "READY", 2: "READY"}

    run(tmp_path, check)


def test_every_worker_of_a_home_follows(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        async with worker(settings) as other:
            await asyncio.gather(one.repository.load("mf", 2), other.repository.unload("churn", None))
            for each in (one, other):
                await each.repository.sync()
                assert (each.states("mf"), each.states("churn")) == ({1: "READY", 2: "READY"}, {1: "UNAVAILABLE"})
            async with worker(settings) as restarted:
                assert restarted.states("mf") == {1: "READY", 2: "READY"}
            await asyncio.gather(one.repository.load("churn", None), other.repository.unload("mf", 2))
            for each in (one, other):
                await each.repository.sync()
                assert (each.states("mf"), each.states("churn")) == ({1: "READY"}, {1: "READY"})

    run(tmp_path, check)


def test_a_new_server_knows_nothing_of_what_was_asked_of_the_last(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        await one.repository.load("mf", 2)
        runtime.clear(settings)
        async with worker(settings) as fresh:
            assert fresh.states() == {1: "READY"}

    run(tmp_path, check)


def test_a_removed_rollout_takes_what_was_asked_with_it(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        await one.repository.unload("mf", None)
        (settings.rollouts / "mf.json").unlink()
        await one.repository.sync()
        assert one.states() == {}
        serve_stable(settings.rollouts, "mf", 2, **BY)
        await one.repository.sync()
        assert one.states() == {2: "READY"}

    run(tmp_path, check)


def test_a_version_is_loaded_once_whatever_becomes_of_it(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        await one.repository.load("mf", 2)
        loaded = one.repository.model("mf").pinned(2)
        for change in (
            lambda: start_candidate(settings.rollouts, "mf", 2, **BY),
            lambda: promote(settings.rollouts, "mf", **BY),
        ):
            change()
            await one.repository.sync()
            assert one.repository.model("mf").pinned(2) is loaded
        assert one.repository.model("mf").arms() == {2: Arm.STABLE}
        start_candidate(settings.rollouts, "mf", 1, **BY)
        await one.repository.sync()
        abort(settings.rollouts, "mf", **BY)
        await one.repository.sync()
        assert one.states() == {2: "READY"}

    run(tmp_path, check)


def test_a_version_ends_with_its_last_call_and_its_metrics_some_time_later(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        call = one.repository.model("mf").stable  # what a call in flight holds
        serve_stable(settings.rollouts, "mf", 2, **BY)
        await one.repository.sync()
        await asyncio.sleep(0.05)
        assert (one.states(), one.retired) == ({2: "READY"}, [])
        answer = await call.batcher.submit(({"user_id": np.array([7]), "item_id": np.array([10])}, 1), 1, None)
        assert np.frombuffer(answer.result["score"], "<f4").tolist() == pytest.approx([3.1])
        del call, answer
        await until(lambda: one.retired == [("mf", 1)])
        await asyncio.sleep(0.05)
        assert 'version="1"' in generate_latest(one.metrics.registry).decode()
        await set_forward(one, left=1, by_s=3600)
        await until(lambda: one.forgotten == [("mf", 1)])
        page = generate_latest(one.metrics.registry).decode()
        assert ('model="mf",version="1"' in page, 'model="mf",version="2"' in page) == (False, True)

    run(tmp_path, check, forget_after_s=3600)


def test_a_version_that_comes_back_is_not_forgotten(tmp_path: Path) -> None:
    async def check(settings: Settings, one: Worker) -> None:
        for version in (2, 1):
            serve_stable(settings.rollouts, "mf", version, **BY)
            await one.repository.sync()
        await set_forward(one, left=2, by_s=3600)  # version 1 was to be forgotten as well, and is back
        await until(lambda: one.forgotten == [("mf", 2)])
        assert (
            'driftwheel_model_version_loaded{arm="stable",model="mf",version="1"} 1.0'
            in generate_latest(one.metrics.registry).decode()
        )

    run(tmp_path, check, forget_after_s=3600)


BIG_MB = 48


def make_big_bundle(models: Path, version: int) -> None:
    """A rating bundle with a user table of ``BIG_MB``."""
    vocabularies = {"user_id": Vocabulary(bundles.USERS), "item_id": Vocabulary(bundles.ITEM_IDS)}
    users = np.linspace(0, 1, BIG_MB * 2**20 // 4, dtype=np.float32) * version
    with published_folder(bundle_folder(models, "mf", version)) as folder:
        (folder / ONNX_GRAPH).write_bytes(bundles.rating_graph(users, bundles.rating_tables(0.0)[1]))
        inputs = {"user_id": np.array([7, 15, 99]), "item_id": np.array([10, 50, 40])}
        bundles._golden(folder, bundles.RATING_SIGNATURE, vocabularies, inputs)
        bundles._seal(folder, "mf", version, "rating", bundles.RATING_SIGNATURE, vocabularies)


@pytest.mark.slow
def test_the_memory_of_retired_versions_is_returned(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, serving={"port": 0})
    for version in (1, 2):
        make_big_bundle(settings.models, version)
    serve_stable(settings.rollouts, "mf", 1, **BY)

    async def check() -> None:
        resident: list[float] = []
        async with worker(settings, forget_after_s=0.01) as one:
            for switch in range(30):
                serve_stable(settings.rollouts, "mf", 1 + switch % 2, **BY)
                await one.repository.sync()
                await until(lambda switch=switch: len(one.retired) == switch)
                resident.append(resident_mb(trimmed=False))
            await until(lambda: len(one.forgotten) >= 1)
            samples = generate_latest(one.metrics.registry).decode().count('model="mf",version=')
        assert max(resident[5:]) - min(resident[5:]) < BIG_MB / 2, resident
        assert samples < 10

    asyncio.run(check())


@pytest.mark.system
def test_no_call_fails_while_versions_come_and_go(tmp_path: Path) -> None:
    """Two event loops over one home, each with its own calls, while a third party loads, unloads and promotes."""
    settings = prepared_home(tmp_path)
    stop, failures, answers = threading.Event(), [], []

    async def call(one: Worker) -> None:
        job = ({"user_id": np.array([7]), "item_id": np.array([10])}, 1)
        while not stop.is_set():
            loaded = one.repository.model("mf").stable
            try:
                (score,) = np.frombuffer((await loaded.batcher.submit(job, 1, None)).result["score"], "<f4")
            except Exception as error:  # noqa: BLE001 (whatever it is, it is a failed call)
                failures.append(error)
            else:
                answers.append(round(float(score) - (0.25 if loaded.version == 2 else 0.0), 4))
            await asyncio.sleep(0)

    async def serve() -> None:
        async with worker(settings) as one:
            watching = asyncio.create_task(one.repository.watch())
            await asyncio.gather(call(one), call(one))
            watching.cancel()

    async def change() -> None:
        async with worker(settings) as one:
            for _ in range(3):
                await one.repository.load("mf", 2)
                serve_stable(settings.rollouts, "mf", 2, **BY)
                await one.repository.sync()
                await one.repository.load("mf", 1)
                serve_stable(settings.rollouts, "mf", 1, **BY)
                await one.repository.sync()
                await asyncio.sleep(0.25)

    serving = threading.Thread(target=asyncio.run, args=(serve(),))
    serving.start()
    try:
        asyncio.run(change())
    finally:
        stop.set()
        serving.join()
    assert (failures, set(answers)) == ([], {3.1})


@pytest.mark.system
def test_all_workers_of_a_server_follow_and_no_call_of_theirs_fails(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path, serving={"port": 0, "workers": 2})
    wishes = runtime.wishes_folder(settings)

    def ask(target: str) -> int:
        with closing(http.client.HTTPConnection(target, timeout=60)) as connection:
            connection.request("GET", "/v2/models/mf/versions/2/ready")
            return connection.getresponse().status

    def wait_for(target: str, status: int) -> None:
        give_up = time.monotonic() + 60
        # New connections, which the system spreads over the workers.
        while (seen := {ask(target) for _ in range(16)}) != {status}:
            assert time.monotonic() < give_up, seen
            time.sleep(0.05)

    with running(settings) as (_, address), Traffic(address.target, [7, 15]) as traffic:
        traffic.wait_for(20)
        for _ in range(3):
            change_wish(wishes, "mf", lambda wish: replace(wish, versions=(2,)))
            wait_for(address.target, 200)
            change_wish(wishes, "mf", lambda wish: replace(wish, versions=()))
            wait_for(address.target, 404)
        traffic.wait_for(20)
    assert traffic.wrong == []
    assert not wishes.exists()
