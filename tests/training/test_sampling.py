import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.sampling import epoch_batches, rank_seed


def all_ranks(rows: int, batch_rows: int, ranks: int, *, seed: int = 1, epoch: int = 0) -> list[torch.Tensor]:
    return [
        epoch_batches(rows, batch_rows=batch_rows, rank=rank, ranks=ranks, seed=seed, epoch=epoch)
        for rank in range(ranks)
    ]


@given(rows=st.integers(1, 500), batch_rows=st.integers(1, 600), ranks=st.integers(1, 5))
def test_every_row_is_seen_and_ranks_step_alike(rows: int, batch_rows: int, ranks: int):
    parts = all_ranks(rows, batch_rows, ranks)
    assert len({part.shape for part in parts}) == 1
    seen = torch.cat([part.flatten() for part in parts])
    counts = torch.bincount(seen, minlength=rows)
    assert counts.min() >= 1
    steps, width = parts[0].shape
    assert len(seen) == steps * width * ranks
    assert steps == -(-rows // (width * ranks))


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_whole_batch_does_not_depend_on_the_ranks(ranks: int):
    (alone,) = all_ranks(103, 20, 1)
    assert torch.equal(torch.cat(all_ranks(103, 20, ranks), dim=1), alone)


def test_epochs_and_seeds_shuffle_anew():
    orders = [all_ranks(100, 10, 1, seed=seed, epoch=epoch)[0] for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order.flatten().tolist()) for order in orders}) == 4
    assert torch.equal(orders[0], all_ranks(100, 10, 1)[0])
    assert len({rank_seed(1, epoch, rank) for epoch in range(10) for rank in range(10)}) == 100
