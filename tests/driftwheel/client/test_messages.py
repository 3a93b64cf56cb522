"""What calls are made of: tensors and questions."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel._client.recommending import recommend
from driftwheel._client.tensors import decode, encode
from driftwheel.client import (
    ServerFaultError,
)
from serving._proto import driftwheel_pb2 as driftwheel_pb


class TestQuestions:
    def test_k_counts_from_one(self) -> None:
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            recommend(15, 0)

    def test_ids_are_numbers_or_text(self) -> None:
        with pytest.raises(TypeError, match="exclude must hold numbers or text"):
            recommend(15, exclude=[1, "a"])
        with pytest.raises(TypeError):
            recommend(1.5)  # type: ignore[arg-type]

    def test_text_ids_come_back(self) -> None:
        result = driftwheel_pb.UserResult(
            items={"text": ["a", "b"]}, titles=["A", ""], scores=[2.0, 1.0], source="SOURCE_FACTORS", version=3
        )
        call = recommend("me", ratings={"c": 4.5}, exclude=["d"])
        request = driftwheel_pb.RecommendRequest.FromString(call.body)
        assert request.users[0].user_key == "me"
        assert list(request.users[0].ratings.items.text) == ["c"]
        answer = call.answer(driftwheel_pb.RecommendResponse(results=[result]).SerializeToString())
        assert (answer.user_id, answer.source, answer.version) == ("me", "factors", 3)
        assert [(item.row, item.item_id, item.title) for item in answer.items] == [(0, "a", "A"), (1, "b", None)]

    def test_too_few_answers_are_none(self) -> None:
        with pytest.raises(ServerFaultError):
            recommend(1).answer(b"")


class TestTensors:
    @pytest.mark.parametrize(
        "kind", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">i8", ">f4"]
    )
    def test_numbers_come_back(self, kind: str) -> None:
        values = np.array([[0, 1, 1], [1, 0, 1]], kind)
        datatype, raw = encode("x", values)
        np.testing.assert_array_equal(decode(datatype, [2, 3], raw), values)

    @given(st.lists(st.binary()))
    def test_any_text_comes_back(self, texts: list[bytes]) -> None:
        values = np.array([*texts, None], object)[:-1]
        assert decode(*encode("x", values)[:1], [len(texts)], encode("x", values)[1]).tolist() == texts

    @given(st.sampled_from(["BYTES", "INT64", "FP16", "BOOL"]), st.lists(st.integers(-1, 5), max_size=3), st.binary())
    def test_other_peoples_bytes_raise_nothing_else(self, datatype: str, shape: list[int], raw: bytes) -> None:
        with contextlib.suppress(ValueError):
            decode(datatype, shape, raw)

    def test_text_comes_back(self) -> None:
        datatype, raw = encode("x", np.array(["ä", None, b"raw", 7], object))
        assert decode(datatype, [4], raw).tolist() == ["ä".encode(), b"", b"raw", b"7"]
        assert encode("x", np.array(["one", "two"])) == encode("x", np.array(["one", "two"], object))

    def test_what_no_datatype_is_for(self) -> None:
        with pytest.raises(TypeError, match="'when'.*datetime64"):
            encode("when", np.array(["2026-01-01"], "datetime64[D]"))

    @pytest.mark.parametrize(
        ("datatype", "raw"), [("BYTES", b"\x05\0\0\0abc"), ("BYTES", b"\x01"), ("X", b""), ("FP32", b"12345")]
    )
    def test_what_is_no_tensor(self, datatype: str, raw: bytes) -> None:
        with pytest.raises(ValueError):
            decode(datatype, [1], raw)
