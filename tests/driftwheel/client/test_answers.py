"""Both clients against a real server, and who may do what."""

import asyncio
import inspect

import numpy as np
import pytest

from driftwheel.client import (
    AsyncClient,
    Client,
    NotFoundError,
    PermissionDeniedError,
    Question,
    UnauthenticatedError,
)
from serving.access import Role
from tests.driftwheel.client.asking import LABELS, PAIR, Ask


class TestAnswers:
    def test_infer(self, ask: Ask, target: str) -> None:
        answer = ask(target, lambda client: client.infer("mf", PAIR))
        assert (answer.version, answer.arm) == (1, "stable")
        assert answer.prediction_id.startswith("mf.1.")
        np.testing.assert_allclose(answer.outputs["score"], [4.2])

    def test_infer_with_text_and_a_missing_value(self, ask: Ask, target: str) -> None:
        tensors = {"contract": np.array(["One year", None], object), "tenure": np.array([1.0, 2.0], np.float32)}
        answer = ask(target, lambda client: client.infer("churn", tensors, version=1, routing_key="x"))
        assert answer.arm == "pinned"
        assert answer.outputs["churn_probability"].shape == (2,)

    def test_infer_compressed(self, ask: Ask, target: str) -> None:
        many = {name: np.repeat(values, 1000) for name, values in PAIR.items()}
        answer = ask(target, lambda client: client.infer("mf", many), gzip=True)
        assert answer.outputs["score"].shape == (1000,)

    def test_recommend(self, ask: Ask, target: str) -> None:
        best = ask(target, lambda client: client.recommend(15, 2))
        assert [item.item_id for item in best.items] == [40, 30]
        assert best.items[1].title == "Thirty"
        assert best.items[0].score > best.items[1].score
        without = ask(target, lambda client: client.recommend(15, 2, exclude=[40]))
        assert 40 not in [item.item_id for item in without.items]

    def test_an_unknown_user_gets_what_is_popular(self, ask: Ask, target: str) -> None:
        assert ask(target, lambda client: client.recommend(999, 1)).source == "popularity"

    def test_a_new_user_gets_what_fits_the_ratings_given(self, ask: Ask, target: str) -> None:
        best = ask(target, lambda client: client.recommend(999, 2, ratings={40: 5.0, 10: 1.0}, candidates=[10, 20, 40]))
        assert best.source == "fold_in"
        assert [item.item_id for item in best.items] == [20]

    def test_many_users_at_once(self, ask: Ask, target: str) -> None:
        users = [7, Question(user_id=15, k=1, exclude=[40]), np.int64(999)]
        answers = ask(target, lambda client: client.recommend_batch(users, 2))
        assert [answer.user_id for answer in answers] == [7, 15, 999]
        assert [len(answer.items) for answer in answers] == [2, 1, 2]
        assert answers[1].items[0].item_id != 40
        assert len({answer.prediction_id for answer in answers}) == 3

    def test_churn(self, ask: Ask, target: str) -> None:
        answer = ask(target, lambda client: client.churn([{"contract": "One year", "tenure": 3}, {"tenure": None}]))
        assert answer.model == "churn"
        assert answer.probabilities.shape == (2,)
        assert ((answer.probabilities > 0) & (answer.probabilities < 1)).all()

    def test_feedback(self, ask: Ask, target: str) -> None:
        answer = ask(target, lambda client: client.infer("mf", PAIR))
        assert ask(target, lambda client: client.feedback([(answer.prediction_id, 0, 4.5)])) == 1

    def test_what_the_server_says_of_itself(self, ask: Ask, target: str) -> None:
        assert ask(target, lambda client: client.live())
        assert ask(target, lambda client: client.ready())
        assert ask(target, lambda client: client.model_ready("mf", version=1))
        assert not ask(target, lambda client: client.model_ready("mf", version=9))
        assert ask(target, lambda client: client.server_metadata()).name == "driftwheel"

    def test_what_the_server_says_of_its_models(self, ask: Ask, target: str) -> None:
        metadata = ask(target, lambda client: client.metadata("mf"))
        assert metadata.versions == (1,)
        assert [(spec.name, spec.datatype, spec.shape) for spec in metadata.inputs] == [
            ("user_id", "INT64", (-1,)),
            ("item_id", "INT64", (-1,)),
        ]
        assert ask(target, lambda client: client.versions("mf")) == {1: "READY"}
        assert {(one.name, one.state) for one in ask(target, lambda client: client.index())} == {
            ("mf", "READY"),
            ("churn", "READY"),
        }

    def test_calls_under_way_together(self, target: str) -> None:
        with Client(target) as client:
            pending = [client.start_infer("mf", PAIR) for _ in range(20)]
            ids = {one.result().prediction_id for one in pending}
        assert len(ids) == 20

    def test_many_calls_on_one_loop(self, target: str) -> None:
        async def ids() -> set[str]:
            async with AsyncClient(target) as client:
                return {
                    one.prediction_id for one in await asyncio.gather(*(client.infer("mf", PAIR) for _ in range(20)))
                }

        assert len(asyncio.run(ids())) == 20


class TestAdmin:
    def test_versions_come_and_go_for_who_may(self, ask: Ask, guarded: tuple[str, dict[Role, str]]) -> None:
        target, tokens = guarded
        infer, admin = tokens[Role.INFER], tokens[Role.ADMIN]
        with pytest.raises(UnauthenticatedError):
            ask(target, lambda client: client.metadata("mf"))
        with pytest.raises(PermissionDeniedError):
            ask(target, lambda client: client.load("mf", version=2), token=infer)
        with pytest.raises(PermissionDeniedError):
            ask(target, lambda client: client.feedback(LABELS), token=infer)
        with pytest.raises(NotFoundError):
            ask(target, lambda client: client.infer("mf", PAIR, version=2), token=infer)
        ask(target, lambda client: client.load("mf", version=2), token=admin)
        assert ask(target, lambda client: client.infer("mf", PAIR, version=2), token=infer).version == 2
        ask(target, lambda client: client.unload("mf", version=2), token=admin)
        assert not ask(target, lambda client: client.model_ready("mf", version=2))

    def test_without_tokens_it_is_off(self, ask: Ask, target: str) -> None:
        with pytest.raises(PermissionDeniedError, match="driftwheel token new"):
            ask(target, lambda client: client.unload("mf"))


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}

    assert methods(Client) - methods(AsyncClient) == {"start", "start_infer"}
    assert methods(AsyncClient) <= methods(Client)
    for name in methods(AsyncClient) - {"run", "close"}:
        assert inspect.signature(getattr(Client, name)) == inspect.signature(getattr(AsyncClient, name)), name
    assert list(inspect.signature(Client.recommend).parameters)[:3] == ["self", "user_id", "k"]
