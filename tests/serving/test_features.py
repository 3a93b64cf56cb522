"""Customers by id alone: a real Feast repository, a real server, and answers that are those to the raw rows, bit for bit."""

import asyncio
import re
import shutil
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from driftwheel.client import Client
from driftwheel.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from driftwheel.settings import Settings
from driftwheel.wheel import features
from driftwheel.wheel.sources import Sources
from monitoring.dashboards.build import FOLDER
from monitoring.metrics import ServingMetrics
from monitoring.windows import read_predictions
from serving._proto import open_inference_pb2 as pb
from serving.features import OnlineFeatures, check_features
from serving.front_door import running
from tests.serving.conftest import Live, connected, prepared_home
from tests.serving.transports.other_clients import triton
from training.data.sources import CustomersSource, RatingsSource

BUILT = datetime(2026, 3, 1, tzinfo=UTC)
BUILT_S = BUILT.timestamp()
ROWS = 200
NUMBERED_FROM = 190
"""From this row on, customers' ids are numbers."""


def table() -> pd.DataFrame:
    """Customers with the inputs of the hand-made churn bundle, some of them missing, and one column that it does not take."""
    random = np.random.default_rng(3)
    tenure = random.normal(30, 20, ROWS)
    tenure[::7] = np.nan
    contract = random.choice(["Month-to-month", "One year", "Two year"], ROWS).astype(object)
    contract[::11] = None
    churn = np.where(np.arange(ROWS) % 3, "No", "Yes")
    ids = [f"c{row}" if row < NUMBERED_FROM else str(row) for row in range(ROWS)]
    return pd.DataFrame({"id": ids, "contract": contract, "tenure": tenure, "plan": "a", "churn": churn})


def sources_in(folder: Path) -> Sources:
    """The customers and three ratings, as files."""
    customers, ratings = folder / "customers.csv", folder / "ratings.csv"
    table().to_csv(customers, index=False)
    ratings.write_text("user_id,item_id,rating,timestamp\n1,10,4,100000\n1,20,5,300000\n2,10,3,300000\n")
    return Sources(
        ratings=RatingsSource(path=str(ratings)), customers=CustomersSource(path=str(customers), id_column="id")
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with features built and brought online."""
    home = tmp_path_factory.mktemp("home")
    # The store's rows are years old or young as the tests' clock has it; the server's clock is the real one.
    settings = prepared_home(home, features={"serve": True, "max_age_s": 10 * 365 * 86400, "timeout_ms": 5000})
    features.build(settings, sources_in(home), at=BUILT)
    features.materialize(settings, until=BUILT)
    return settings


@pytest.fixture(scope="module")
def live(home: Settings) -> Generator[Live]:
    with running(home) as (door, address), connected(home, door, address) as server:
        yield server


def raw_rows() -> list[dict[str, Any]]:
    rows = table()[["contract", "tenure"]].astype({"tenure": "float32"}).to_dict("records")
    return [{name: value for name, value in row.items() if not pd.isna(value)} for row in rows]


def ids() -> list[str]:
    return table()["id"].tolist()


@pytest.mark.system
class TestServer:
    def test_answers_by_id_are_the_answers_to_the_raw_rows_bit_for_bit(self, live: Live) -> None:
        raw = live.http.post("/v1/churn", json={"customers": raw_rows()}).json()
        by_id = live.http.post("/v1/churn", json={"customer_ids": ids()}).json()
        assert [row["features"] for row in by_id["predictions"]] == ["fresh"] * ROWS
        assert len({row["churn_probability"] for row in raw["predictions"]}) > 50
        assert [row["churn_probability"] for row in by_id["predictions"]] == [
            row["churn_probability"] for row in raw["predictions"]
        ]
        assert "features" not in raw["predictions"][0]

    def test_the_log_has_the_features_that_were_read(self, live: Live) -> None:
        answer = live.http.post("/v1/churn", json={"customer_ids": ["c1", "c7"]}).json()
        give_up = time.monotonic() + 60
        while (
            (logged := read_predictions(live.settings.prediction_log, "churn"))
            .query(f"prediction_id == '{answer['prediction_id']}'")
            .empty
        ):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        rows = logged[logged["prediction_id"] == answer["prediction_id"]]
        expected = table().iloc[[1, 7]]
        assert rows["in_contract"].tolist() == expected["contract"].tolist()
        np.testing.assert_array_equal(rows["in_tenure"], expected["tenure"].astype("float32"))

    def test_our_client_asks_by_id(self, live: Live) -> None:
        with Client(live.address.target) as client:
            by_id = client.churn(customer_ids=["c3", "c4"]).probabilities
            np.testing.assert_array_equal(by_id, client.churn(raw_rows()[3:5]).probabilities)

    @pytest.mark.parametrize(
        ("body", "status", "says"),
        [
            ({"customer_ids": ["c1", "nobody"]}, 404, "does not know customer 'nobody'"),
            ({"customer_ids": []}, 400, "at least one customer"),
            ({}, 400, "at least one customer"),
            ({"customer_ids": ["c1"] * 1001}, 413, "at most 1000"),
            ({"customers": [{}], "customer_ids": ["c1", "c2"]}, 400, "each of the 1 customers"),
        ],
    )
    def test_what_cannot_be_looked_up_says_why(self, live: Live, body: dict, status: int, says: str) -> None:
        answer = live.http.post("/v1/churn", json=body)
        assert (answer.status_code, says in answer.text) == (status, True), answer.text

    def test_what_is_read_is_counted(self, live: Live) -> None:
        before = page(live)
        live.http.post("/v1/churn", json={"customer_ids": ["c0", "c1", "c2"]})
        live.http.post("/v1/churn", json={"customer_ids": ["nobody"]})
        after = page(live)

        def grown(series: str) -> float:
            return after[series] - before.get(series, 0.0)

        assert grown('driftwheel_feature_customers_total{freshness="fresh"}') == 3
        assert grown('driftwheel_feature_customers_total{freshness="unknown"}') == 1
        assert grown('driftwheel_feature_missing_values_total{feature="tenure"}') == 1
        assert grown('driftwheel_feature_missing_values_total{feature="contract"}') == 1
        assert grown("driftwheel_feature_fetch_duration_seconds_count") == 2


@pytest.mark.system
def test_the_dashboard_asks_for_what_such_a_server_tells(live: Live) -> None:
    live.http.post("/v1/churn", json={"customer_ids": ["c0"]})
    told = set(re.findall(r"^# TYPE (\S+)", live.http.get("/metrics").text, flags=re.MULTILINE))
    asked = set(re.findall(r"driftwheel_feature_\w+", (FOLDER / "capacity.json").read_text()))
    assert len(asked) == 5
    assert {name.removesuffix("_bucket") for name in asked} <= told


def page(live: Live) -> dict[str, float]:
    lines = live.http.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def fetched(settings: Settings, names: list[str], now_s: float = BUILT_S + 1, **changes: Any) -> tuple[Any, str]:
    """What a store with other settings says at a moment, and its metrics."""
    registry = CollectorRegistry()

    async def ask() -> Any:
        own = settings.features.model_copy(update=changes)
        store = OnlineFeatures(own, settings.features_folder, ServingMetrics(registry), now_s=lambda: now_s)
        await store.open()
        try:
            return await store.fetch(names, None)
        finally:
            store.close()

    try:
        return asyncio.run(ask()), generate_latest(registry).decode()
    except (NotFoundError, UnavailableError) as error:
        return error, generate_latest(registry).decode()


def copied(folder: Path, to: Path) -> Path:
    """A repository of its own, without offline files."""
    to.mkdir()
    shutil.copy(folder / "registry.db", to)
    with (
        closing(sqlite3.connect(folder / "online.sqlite")) as here,
        closing(sqlite3.connect(to / "online.sqlite")) as there,
    ):
        here.backup(there)
    return to


LATER = BUILT_S + 101


class TestPolicies:
    def test_stale_features_are_missing_as_in_training(self, home: Settings) -> None:
        answer, metrics = fetched(home, ["c1"], LATER, max_age_s=100)
        assert (answer.columns["tenure"], answer.freshness) == ([None], ["stale"])
        assert 'driftwheel_feature_customers_total{freshness="stale"} 1.0' in metrics

    def test_they_are_used_where_that_is_wanted(self, home: Settings) -> None:
        answer, _ = fetched(home, ["c1"], LATER, max_age_s=100, stale="use")
        fresh, _ = fetched(home, ["c1"], LATER, max_age_s=101)
        assert (answer.columns, answer.freshness, fresh.freshness) == (fresh.columns, ["stale"], ["fresh"])

    def test_they_are_refused_where_that_is_wanted(self, home: Settings) -> None:
        error, _ = fetched(home, ["c1"], LATER, max_age_s=100, stale="refuse")
        assert "the features of customer 'c1' are 101 s old, more than 100" in str(error)

    def test_an_unknown_customer_may_be_one_without_features(self, home: Settings) -> None:
        answer, metrics = fetched(home, ["nobody", "c1"], unknown="missing")
        assert (answer.freshness, answer.columns["tenure"][0]) == (["unknown", "fresh"], None)
        assert 'feature="tenure"' not in metrics

    def test_a_write_under_way_keeps_nobody_waiting(self, home: Settings) -> None:
        before, _ = fetched(home, ["c1"])
        with closing(sqlite3.connect(home.features_folder / "online.sqlite", isolation_level=None)) as writer:
            writer.execute("PRAGMA cache_size = 1")  # so that it has to write before it is done
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM driftwheel_customers")
            assert fetched(home, ["c1"])[0] == before
            writer.execute("ROLLBACK")

    def test_a_store_that_does_not_answer_costs_a_bounded_time(self, home: Settings, tmp_path: Path) -> None:
        folder = copied(home.features_folder, tmp_path / "features")
        with closing(sqlite3.connect(folder / "online.sqlite", isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode = DELETE")  # where a writer keeps readers out

            async def ask() -> None:
                settings = home.features.model_copy(update={"timeout_ms": 50})
                store = OnlineFeatures(settings, folder, ServingMetrics(registry))
                await store.open()
                other.execute("BEGIN EXCLUSIVE")
                with pytest.raises(UnavailableError, match="longer than 50 ms"):
                    await store.fetch(["c1"], None)
                with pytest.raises(DeadlineExceededError):
                    await store.fetch(["c1"], time.monotonic() + 0.01)
                other.execute("ROLLBACK")
                store.close()

            registry = CollectorRegistry()
            asyncio.run(ask())
        assert 'driftwheel_feature_failures_total{reason="timeout"} 1.0' in generate_latest(registry).decode()

    def test_a_damaged_store_is_no_reason_not_to_start(self, home: Settings, tmp_path: Path) -> None:
        folder = tmp_path / "features"
        folder.mkdir()
        (folder / "registry.db").write_bytes((home.features_folder / "registry.db").read_bytes())
        (folder / "online.sqlite").write_bytes(b"no database" * 100)
        registry = CollectorRegistry()

        async def ask() -> None:
            store = OnlineFeatures(home.features, folder, ServingMetrics(registry))
            await store.open()
            with pytest.raises(UnavailableError, match="the feature store failed; the server's log says why"):
                await store.fetch(["c1"], None)
            store.close()

        asyncio.run(ask())
        assert 'driftwheel_feature_failures_total{reason="error"} 1.0' in generate_latest(registry).decode()

    def test_bounds_hold_before_the_store_is_asked(self, home: Settings) -> None:
        async def ask() -> None:
            store = OnlineFeatures(home.features, home.features_folder, ServingMetrics(CollectorRegistry()))
            with pytest.raises(UnavailableError, match="is being opened"):
                await store.fetch(["c1"], None)
            with pytest.raises(TooLargeError, match="1001 customers"):
                await store.fetch(["c1"] * 1001, None)
            with pytest.raises(InvalidRequestError, match="at least one"):
                await store.fetch([], None)
            store.close()

        asyncio.run(ask())


def test_a_server_without_built_features_does_not_start(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path, features={"serve": True})
    with pytest.raises(ConfigurationError, match="no features have been registered"):
        check_features(settings)


def named(kind: str, customers: list[Any], *, name: str = "customer_id") -> list[triton.InferInput]:
    tensor = triton.InferInput(name, [len(customers)], kind)
    tensor.set_data_from_numpy(np.array(customers, dtype=object if kind == "BYTES" else np.dtype(kind.lower())))
    return [tensor]


@pytest.fixture(scope="module")
def client(live: Live) -> Generator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(live.address.target) as client:
        yield client


@pytest.mark.system
class TestTritonsClient:
    def test_raw_ids_are_answered_as_over_http(self, live: Live, client: triton.InferenceServerClient) -> None:
        over_http = live.http.post("/v1/churn", json={"customer_ids": ids()}).json()["predictions"]
        before = page(live)
        answer = client.infer("churn", named("BYTES", ids()))
        expected = np.array([row["churn_probability"] for row in over_http], dtype=np.float32)
        np.testing.assert_array_equal(answer.as_numpy("churn_probability"), expected)
        assert answer.get_response().parameters["features"].string_param == ",".join(["fresh"] * ROWS)
        counted = 'driftwheel_feature_customers_total{freshness="fresh"}'
        assert page(live)[counted] - before[counted] == ROWS
        assert (
            page(live)["driftwheel_feature_age_seconds_count"] - before["driftwheel_feature_age_seconds_count"] == ROWS
        )

    def test_typed_ids_are_answered_as_raw_ones(self, live: Live, client: triton.InferenceServerClient) -> None:
        tensor = {
            "name": "customer_id",
            "datatype": "BYTES",
            "shape": [2],
            "contents": {"bytes_contents": [b"c1", b"c7"]},
        }
        typed = live.stub.ModelInfer(pb.ModelInferRequest(model_name="churn", inputs=[tensor]))
        raw = client.infer("churn", named("BYTES", ["c1", "c7"])).as_numpy("churn_probability")
        np.testing.assert_array_equal(np.frombuffer(typed.raw_output_contents[0], "<f4"), raw)

    def test_numbers_name_whom_their_digits_name(self, client: triton.InferenceServerClient) -> None:
        numbers = list(range(NUMBERED_FROM, ROWS))
        by_number = client.infer("churn", named("INT64", numbers)).as_numpy("churn_probability")
        by_text = client.infer("churn", named("BYTES", [str(one) for one in numbers])).as_numpy("churn_probability")
        np.testing.assert_array_equal(by_number, by_text)
        assert len(set(by_number.tolist())) > 5

    def test_a_stream_answers_ids_as_single_calls_do_and_goes_on_after_an_unknown_one(
        self, live: Live, client: triton.InferenceServerClient
    ) -> None:
        def request(*names: bytes) -> pb.ModelInferRequest:
            tensor = {"name": "customer_id", "datatype": "BYTES", "shape": [len(names)]}
            return pb.ModelInferRequest(
                model_name="churn", inputs=[{**tensor, "contents": {"bytes_contents": list(names)}}]
            )

        asked = iter([request(b"c1", b"c7"), request(b"nobody"), request(b"c2")])
        first, unknown, last = live.stub.ModelStreamInfer(asked)
        assert "does not know customer 'nobody'" in unknown.error_message
        for streamed, names in ((first, ["c1", "c7"]), (last, ["c2"])):
            single = client.infer("churn", named("BYTES", names)).as_numpy("churn_probability")
            np.testing.assert_array_equal(np.frombuffer(streamed.infer_response.raw_output_contents[0], "<f4"), single)
            assert streamed.infer_response.parameters["features"].string_param == ",".join(["fresh"] * len(names))

    @pytest.mark.parametrize(
        ("model", "inputs", "says"),
        [
            ("churn", named("BYTES", ["c1", "nobody"]), "does not know customer 'nobody'"),
            ("churn", named("INT64", [15]), "does not know customer '15'"),
            ("churn", named("INT32", [1]), "INT64 or BYTES, got INT32"),
            ("churn", named("BYTES", ["c1"] * 1001), "at most 1000"),
            ("churn", named("BYTES", ["c1"], name="id"), "input 'contract' is missing"),
            ("mf", named("BYTES", ["c1"]), "'mf' does rating, not churn"),
        ],
    )
    def test_what_cannot_be_looked_up_says_why(
        self, client: triton.InferenceServerClient, model: str, inputs: list[triton.InferInput], says: str
    ) -> None:
        with pytest.raises(triton.InferenceServerException, match=says):
            client.infer(model, inputs)
