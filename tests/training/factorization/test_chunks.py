import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.factorization.chunks import chunked, rows_of, with_end
from training.factorization.shards import Triples

CPU = torch.device("cpu")


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), max_size=60), st.sampled_from([1, 70_000]))
def test_every_rating_is_in_one_block_once_and_in_order(pairs: list[tuple[int, int]], factors: int):
    row, column = (np.array([pair[side] for pair in pairs], dtype=np.int32) for side in range(2))
    value = np.arange(1, len(pairs) + 1, dtype=np.float32)
    found: dict[int, list[tuple[int, float]]] = {}
    for chunk in chunked(Triples(row, column, value), 7, factors, CPU):
        for number, columns, values, count in zip(chunk.rows, chunk.columns, chunk.values, chunk.counts, strict=True):
            assert int(number) not in found
            real = int(count)
            found[int(number)] = list(zip(columns[:real].tolist(), values[:real].tolist(), strict=True))
            assert set(columns[real:].tolist()) <= {7}
            assert not values[real:].any()
            assert len(columns) <= max(2, 1.5 * real)
    expected: dict[int, list[tuple[int, float]]] = {}
    for one, other, number in zip(row.tolist(), column.tolist(), value.tolist(), strict=True):
        expected.setdefault(one, []).append((other, number))
    assert found == expected


def test_what_is_missing_is_a_row_of_zeros():
    table = torch.arange(6.0).view(3, 2) + 1
    picked = rows_of(with_end(table), torch.tensor([[0, 3], [2, 1]], dtype=torch.int32))
    assert picked.tolist() == [[[1, 2], [0, 0]], [[5, 6], [3, 4]]]
