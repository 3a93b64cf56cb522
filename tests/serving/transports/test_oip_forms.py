import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.errors import InvalidRequestError
from serving._proto import open_inference_pb2 as pb
from serving.transports.oip_forms import KnownForms
from tests.bundles import CHURN_SIGNATURE, RATING_SIGNATURE
from tests.serving.conftest import rating_request


class Limits:
    max_rows_per_request = 100


class Loaded:
    def __init__(self, signature=RATING_SIGNATURE) -> None:
        self.signature, self.limits = signature, Limits


def unparsed(loaded):
    raise AssertionError("parsed, though the form is known")


def known(*requests: pb.ModelInferRequest) -> KnownForms:
    forms = KnownForms()
    for request in requests:
        forms.learn(request.SerializeToString(), request, RATING_SIGNATURE, request.inputs[0].shape[0])
    return forms


rows = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 5)), min_size=1, max_size=40)


@given(st.lists(rows, min_size=1, max_size=5), rows)
def test_a_known_form_says_what_parsing_says(seen: list, asked: list) -> None:
    forms = known(*(rating_request(*map(list, zip(*pairs, strict=True))) for pairs in seen))
    request = rating_request(*map(list, zip(*asked, strict=True)))
    found = forms.match(request.SerializeToString())
    assert (found is not None) == (len(asked) in {len(pairs) for pairs in seen})
    if found is not None:
        form, columns = found
        assert (form.model, form.version) == ("mf", None)
        decoded, count = form.decoder(columns, unparsed)(Loaded())
        assert count == len(asked)
        assert [decoded[tensor.name] for tensor in request.inputs] == list(request.raw_input_contents)


@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 200))
def test_what_differs_anywhere_but_in_the_contents_is_parsed(noise: bytes, start: int, end: int) -> None:
    request = rating_request([7, 15], [10, 20])
    message = request.SerializeToString()
    forms = known(request)
    changed = message[:start] + noise + message[max(start, end) :]
    if (found := forms.match(changed)) is not None:
        # Then it is a message that protobuf reads in the same way.
        again = pb.ModelInferRequest.FromString(changed)
        assert list(again.raw_input_contents) == list(found[1].values())
        again.ClearField("raw_input_contents")
        request.ClearField("raw_input_contents")
        assert again == request


def test_requests_that_will_not_come_again_are_not_remembered() -> None:
    named = rating_request([7], [10], id="one")
    keyed = rating_request([7], [10])
    keyed.parameters["routing_key"].string_param = "a"
    chosen = rating_request([7], [10], outputs=[{"name": "score"}])
    typed = rating_request([7], [10])
    typed.ClearField("raw_input_contents")
    for request in (named, keyed, chosen, typed):
        assert known(request)._by_length == {}
        assert known(request).match(request.SerializeToString()) is None


def test_another_signature_or_limit_is_decoded_anew() -> None:
    request = rating_request([7, 15], [10, 20])
    form, columns = known(request).match(request.SerializeToString())
    assert form.decoder(columns, lambda loaded: ({}, 9))(Loaded(CHURN_SIGNATURE)) == ({}, 9)

    class Tight(Loaded):
        def __init__(self) -> None:
            super().__init__()
            self.limits = type("Limits", (), {"max_rows_per_request": 1})

    assert form.decoder(columns, lambda loaded: ({}, 8))(Tight()) == ({}, 8)


def test_infinite_numbers_are_refused_in_a_known_form_too() -> None:
    numbers = type(CHURN_SIGNATURE)(
        inputs=tuple(spec for spec in CHURN_SIGNATURE.inputs if spec.datatype == "FP32"),
        outputs=CHURN_SIGNATURE.outputs,
        label="churn",
        label_low=0,
        label_high=1,
    )

    def request(value: float) -> pb.ModelInferRequest:
        return pb.ModelInferRequest(
            model_name="churn",
            inputs=[{"name": spec.name, "datatype": "FP32", "shape": [1]} for spec in numbers.inputs],
            raw_input_contents=[np.array([value], "<f4").tobytes() for _ in numbers.inputs],
        )

    forms = KnownForms()
    forms.learn(request(1.0).SerializeToString(), request(1.0), numbers, 1)
    form, columns = forms.match(request(np.inf).SerializeToString())
    with pytest.raises(InvalidRequestError, match="must be finite"):
        form.decoder(columns, unparsed)(Loaded(numbers))


def test_what_is_remembered_is_bounded() -> None:
    forms = KnownForms()
    for count in range(1, 3000):
        request = rating_request([7] * count, [10] * count)
        forms.learn(request.SerializeToString(), request, RATING_SIGNATURE, count)
    assert sum(len(known) for known in forms._by_length.values()) <= 8 * 1024
    for length in range(30):
        request = rating_request([7], [10])
        request.model_name = "m" * length
        forms.learn(request.SerializeToString(), request, RATING_SIGNATURE, 1)
    assert len(forms._by_length) <= 8
