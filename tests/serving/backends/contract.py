"""What every backend must do. A backend's test inherits ``BackendContract`` and says how to open one."""

import ctypes
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from driftwheel.errors import BundleError, ModelFaultError
from serving.backends.base import Backend
from tests.serving.backends.cases import BIG_MB, Case, make_big, make_churn, make_rating


class BackendContract:
    """Inherit, set ``suffix`` and write ``open``."""

    suffix: str
    """Of the graph's file: ``.onnx`` or ``.ts``."""

    def open(self, graph: Path, outputs: list[str]) -> Backend:
        """A backend over a graph with these outputs."""
        raise NotImplementedError

    @pytest.fixture(params=[make_rating, make_churn])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        return request.param(tmp_path / f"model{self.suffix}")

    @pytest.fixture
    def backend(self, case: Case) -> Backend:
        return self.open(case.graph, [case.output])

    def test_the_answers_are_the_recorded_ones(self, backend: Backend, case: Case) -> None:
        np.testing.assert_allclose(backend.run(case.feed(7))[case.output], case.answers(7), atol=1e-6)

    @pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 9, 255, 256, 257, 20_000])
    def test_any_number_of_rows(self, backend: Backend, case: Case, rows: int) -> None:
        for _ in range(2):
            answer = backend.run(case.feed(rows))[case.output]
            assert (answer.shape, answer.dtype) == ((rows,), np.dtype(np.float32))
            np.testing.assert_allclose(answer, case.answers(rows), atol=1e-6)

    def test_inputs_may_be_read_only_and_stay_as_they_are(self, backend: Backend, case: Case) -> None:
        feed = case.feed(5)
        before = {name: values.copy() for name, values in feed.items()}
        for values in feed.values():
            values.flags.writeable = False
        backend.run(feed)
        for name, values in feed.items():
            np.testing.assert_array_equal(values, before[name])

    def test_inputs_need_not_be_contiguous(self, backend: Backend, case: Case) -> None:
        feed = {name: np.repeat(values, 2, axis=0)[::2] for name, values in case.feed(5).items()}
        np.testing.assert_allclose(backend.run(feed)[case.output], case.answers(5), atol=1e-6)

    @pytest.mark.parametrize("rows", [4, 300])
    def test_outputs_are_the_callers(self, backend: Backend, case: Case, rows: int) -> None:
        first = backend.run(case.feed(rows))[case.output]
        kept = first.copy()
        backend.run(case.feed(rows, skip=1))
        np.testing.assert_array_equal(first, kept)
        first[:] = -1
        np.testing.assert_array_equal(backend.run(case.feed(rows))[case.output], kept)

    def test_runs_from_several_threads(self, backend: Backend, case: Case) -> None:
        def check(position: int) -> None:
            rows = 1 + position % 11
            answer = backend.run(case.feed(rows, skip=position % 3))[case.output]
            np.testing.assert_allclose(answer, case.answers(rows, skip=position % 3), atol=1e-6)

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(check, range(400))) == [None] * 400

    @pytest.mark.parametrize("damage", ["missing", "unknown", "type", "rank"])
    def test_a_feed_that_does_not_fit_is_a_fault_and_the_next_one_is_answered(
        self, backend: Backend, case: Case, damage: str
    ) -> None:
        feed = dict(case.feed(3))
        name = next(iter(feed))
        if damage == "missing":
            del feed[name]
        elif damage == "unknown":
            feed["other"] = feed[name]
        elif damage == "type":
            feed[name] = feed[name].astype(np.float64)
        else:
            feed[name] = feed[name].reshape(1, 3, 1, 1)
        with pytest.raises(ModelFaultError):
            backend.run(feed)
        np.testing.assert_allclose(backend.run(case.feed(3))[case.output], case.answers(3), atol=1e-6)

    def test_an_index_outside_the_table_is_a_fault(self, backend: Backend, case: Case) -> None:
        name = next(name for name, values in case.feed(1).items() if values.dtype == np.int64)
        wrong = case.feed(3)
        wrong[name] = wrong[name] + 1_000_000
        with pytest.raises(ModelFaultError, match="the model failed"):
            backend.run(wrong)
        np.testing.assert_allclose(backend.run(case.feed(3))[case.output], case.answers(3), atol=1e-6)

    def test_a_missing_number_is_the_models_business(self, tmp_path: Path) -> None:
        case = make_churn(tmp_path / f"model{self.suffix}")
        backend = self.open(case.graph, [case.output])
        answer = backend.run({"category": np.array([[1], [1]]), "number": np.array([[np.nan], [30]], np.float32)})
        assert answer[case.output][0] == answer[case.output][1]

    @pytest.mark.parametrize("keep", [0, 40, -1], ids=["empty", "cut", "changed"])
    def test_a_damaged_graph_is_refused_by_name(self, case: Case, keep: int) -> None:
        whole = case.graph.read_bytes()
        case.graph.write_bytes(whole[:keep] if keep >= 0 else b"\xff" * 200 + whole[200:])
        with pytest.raises(BundleError, match=case.graph.name):
            self.open(case.graph, [case.output])

    def test_a_graph_that_is_not_there_is_refused_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="absent"):
            self.open(tmp_path / f"absent{self.suffix}", ["score"])

    def test_the_platform_has_a_project_and_a_format(self, backend: Backend) -> None:
        project, _, graph_format = backend.platform.partition("_")
        assert project
        assert graph_format

    def test_once_closed_it_says_so(self, backend: Backend, case: Case) -> None:
        backend.close()
        backend.close()
        with pytest.raises(ModelFaultError, match="unloaded"):
            backend.run(case.feed(1))

    def test_closing_gives_the_memory_back(self, tmp_path: Path) -> None:
        case = make_big(tmp_path / f"model{self.suffix}")
        self._use_and_close(case)
        before = resident_mb()
        backend = self.open(case.graph, [case.output])
        backend.run(case.feed(100))
        assert resident_mb() - before > BIG_MB / 2
        backend.close()
        assert resident_mb() - before < BIG_MB / 4

    def _use_and_close(self, case: Case) -> None:
        """The first one pays for what a runtime sets up once."""
        backend = self.open(case.graph, [case.output])
        backend.run(case.feed(100))
        backend.close()


def resident_mb(*, trimmed: bool = True) -> float:
    """What this process holds in memory.

    Args:
        trimmed: Once what is free has gone back to the system.
    """
    if trimmed:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
