"""Two ranks, each a process, beside one: the same gradients, the same results, and nothing lost when they are stopped."""

import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.training.rank_probe import CASES, INTERRUPTED, PIPELINE, RATING, first_gradients, job_for
from training.config import RatingConfig
from training.data.dataset import Dataset
from training.execution import Execution
from training.job import CHECKPOINTS, MODEL, TrainedModel, read_trained
from training.models.store import load_model
from training.worker import Worker

RANKS = 2


@pytest.fixture(scope="module")
def probed(small_ratings: Dataset, customers: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left."""
    out = tmp_path_factory.mktemp("probed")
    arguments = [str(RANKS), str(out), str(small_ratings.folder), str(customers.folder)]
    command = [sys.executable, "-m", "tests.training.rank_probe"]
    ranks = [
        subprocess.Popen([*command, str(rank), *arguments], stderr=subprocess.PIPE, text=True) for rank in range(RANKS)
    ]
    errors = [process.communicate(timeout=200)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    return out


@pytest.fixture
def alone() -> Generator[None]:
    """This process as the only rank."""
    threads = torch.get_num_threads()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.set_num_threads(1)
    yield
    dist.destroy_process_group()
    torch.set_num_threads(threads)


def said(probed: Path, rank: int) -> dict[str, Any]:
    return msgspec.json.decode((probed / f"said-{rank}.json").read_bytes())


def weights(trained: TrainedModel) -> dict[str, torch.Tensor]:
    return load_model(trained.folder).state_dict()


def bits(trained: TrainedModel) -> tuple[Any, ...]:
    history = [(event.epoch, event.train_loss, event.valid_metric, event.best) for event in trained.history]
    return history, trained.metrics, {name: value.tolist() for name, value in weights(trained).items()}


def of_two(probed: Path, name: str) -> TrainedModel:
    return read_trained(probed / name / MODEL)


def of_one(name: str, small_ratings: Dataset, customers: Dataset, folder: Path) -> TrainedModel:
    config, execution = CASES[name]
    dataset = small_ratings if isinstance(config, RatingConfig) else customers
    Worker(job_for(dataset, folder, config, execution, 1), torch.device("cpu")).run()
    return read_trained(folder / MODEL)


def assert_alike(two: TrainedModel, one: TrainedModel) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=1e-4, rtol=1e-3)
    for ours, theirs in zip(two.history, one.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
        assert ours.valid_metric == pytest.approx(theirs.valid_metric, rel=1e-5)


@pytest.mark.parametrize("name", ["rating", "rating sharded", "churn", "churn pipeline"])
def test_gradients_of_two_ranks_equal_those_of_one(
    name: str, probed: Path, alone: None, small_ratings: Dataset, customers: Dataset, tmp_path: Path
):
    config, _ = CASES[name]
    dataset = small_ratings if isinstance(config, RatingConfig) else customers
    one = first_gradients(job_for(dataset, tmp_path, config, Execution(), 1))
    parts = [load_file(probed / f"{name}.gradients-{rank}") for rank in range(RANKS)]
    two = parts[1] | parts[0]
    if "sharded" in name:
        for table in (parameter for parameter in one if "user" in parameter or "item" in parameter):
            two[table] = torch.empty_like(one[table])
            for rank, part in enumerate(parts):
                assert len(part[table]) == len(range(rank, len(one[table]), RANKS))
                two[table][rank::RANKS] = part[table]
    assert two.keys() == one.keys()
    for parameter, gradient in one.items():
        assert gradient.abs().max() > 0, parameter
        torch.testing.assert_close(two[parameter], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["rating", "churn"])
def test_training_on_two_ranks_equals_training_on_one(
    name: str, probed: Path, alone: None, small_ratings: Dataset, customers: Dataset, tmp_path: Path
):
    assert_alike(of_two(probed, name), of_one(name, small_ratings, customers, tmp_path))


@pytest.mark.parametrize(
    ("spread", "plain"),
    [
        ("rating sharded", "rating"),
        ("churn pipeline", "churn"),
        ("churn pipeline of one layer", "churn of one layer"),
    ],
)
def test_a_model_spread_over_ranks_equals_a_whole_one(spread: str, plain: str, probed: Path):
    assert_alike(of_two(probed, spread), of_two(probed, plain))


@pytest.mark.parametrize("name", ["rating", "churn dropout"])
def test_the_same_seed_and_ranks_give_the_same_bits(name: str, probed: Path):
    assert bits(of_two(probed, name)) == bits(of_two(probed, f"{name} again"))


@pytest.mark.parametrize("name", INTERRUPTED)
def test_stopped_every_few_steps_the_bits_are_the_same(name: str, probed: Path):
    assert said(probed, 0)[f"{name} stops"] == said(probed, 1)[f"{name} stops"] >= 2
    assert bits(of_two(probed, f"{name} cut")) == bits(of_two(probed, name))


def test_shared_tables_begin_as_whole_ones_do_and_lie_apart(probed: Path):
    parts = sorted((probed / "rating sharded" / CHECKPOINTS).glob("*/part-*.safetensors"))[-RANKS:]
    held = [load_file(part)["model/model.user_vector.weight"] for part in parts]
    table = weights(of_two(probed, "rating"))["user_vector.weight"]
    assert [len(rows) for rows in held] == [len(table[rank::RANKS]) for rank in range(RANKS)]


@pytest.mark.parametrize("execution", [Execution(), Execution(shard_tables=True)])
def test_fewer_ranks_go_on_where_more_stopped(
    execution: Execution, probed: Path, alone: None, small_ratings: Dataset, tmp_path: Path
):
    """Tables that two ranks shared are put together, and shared by another number of ranks."""
    folder = tmp_path / "half"
    shutil.copytree(probed / "half", folder)
    worker = Worker(job_for(small_ratings, folder, RATING, execution, 1), torch.device("cpu"))
    assert (worker.progress.epoch, worker.progress.step) == (1, 3)
    worker.run()
    assert_alike(read_trained(folder / MODEL), of_two(probed, "rating"))


def test_an_epoch_that_a_pipeline_began_has_its_loss_whoever_ends_it(
    probed: Path, alone: None, customers: Dataset, tmp_path: Path
):
    """Both stages saw the same rows: their losses are counted once, on as many ranks without a pipeline and on fewer."""
    whole = of_two(probed, "churn").history[0].train_loss
    assert said(probed, 0)["staged goes on plain"] == pytest.approx(whole, rel=1e-4)
    folder = tmp_path / "half"
    shutil.copytree(probed / "half staged", folder)
    worker = Worker(job_for(customers, folder, CASES["churn"][0], Execution(), 1), torch.device("cpu"))
    assert (worker.progress.epoch, worker.progress.step) == (0, 5)
    worker.run_epoch()
    assert worker.progress.history[0].train_loss == pytest.approx(whole, rel=1e-4)


def test_a_full_disk_is_an_error_on_every_rank_and_leaves_the_earlier_checkpoint(probed: Path):
    folder = probed / "disk" / CHECKPOINTS
    for rank, cause in enumerate(("another rank could not write its part", "File too large")):
        message = said(probed, rank)["full disk"]
        assert message.startswith(f"no checkpoint could be written to {folder}: ")
        assert cause in message
        assert said(probed, rank)["disk goes on at epoch"] == 1
        assert said(probed, rank)["model on disk"] is False
    assert [path.name for path in folder.iterdir()] == ["000001-00000000"]


def test_all_ranks_hear_of_a_signal_at_the_same_step(probed: Path):
    """Each question takes a second of the clock, so one is asked before every step."""
    assert said(probed, 0)["agreed after"] == said(probed, 1)["agreed after"] == 3


def test_bf16_stays_near_float32(probed: Path):
    assert bits(of_two(probed, "rating bf16")) == bits(of_two(probed, "rating"))  # it multiplies no matrices
    two, half = of_two(probed, "churn"), of_two(probed, "churn bf16")
    assert half.metrics["log_loss"] == pytest.approx(two.metrics["log_loss"], rel=0.01)
    assert bits(half) != bits(two)


def test_a_pipeline_wants_two_ranks(customers: Dataset, alone: None, tmp_path: Path):
    from driftwheel.errors import TrainingError

    config, _ = CASES["churn"]
    with pytest.raises(TrainingError, match=r"training\.pipeline has 2 stages and wants as many ranks, got 1"):
        Worker(job_for(customers, tmp_path, config, PIPELINE, 1), torch.device("cpu"))


@pytest.mark.parametrize("rows", [3, 16, 4095, 4096, 4097, 4120, 12_301])
@pytest.mark.parametrize("columns", [1, 4])
def test_tables_drawn_in_parts_have_the_bits_of_one_draw(rows: int, columns: int, alone: None):
    from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape
    from training.sharding import ShardedTable

    shape = MatrixFactorizationShape(users=rows, items=5, factors=columns, low=1.0, high=5.0)
    drawn = []
    for table in (None, ShardedTable):
        torch.manual_seed(3)
        drawn.append((MatrixFactorization(shape, table).state_dict(), torch.rand(1)))
    for name, value in drawn[0][0].items():
        assert torch.equal(drawn[1][0][name], value), name
    assert torch.equal(drawn[0][1], drawn[1][1])  # and as many numbers were used up
