import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.contracts import Arm
from serving._proto import open_inference_pb2 as pb
from serving.transports.oip_response import ResponseTemplate


@given(
    request_id=st.text(max_size=300),
    prediction_id=st.text(min_size=1, max_size=150),
    rows=st.lists(st.integers(0, 3000), min_size=1, max_size=3),
    names=st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=3, unique=True),
)
def test_a_rendered_answer_is_the_message_that_protobuf_reads(
    request_id: str, prediction_id: str, rows: list[int], names: list[str]
) -> None:
    template = ResponseTemplate("mf", 7, Arm.CONTROL, names)
    for count in rows:
        raw = {name: (np.arange(count, dtype=np.float32) + n).tobytes() for n, name in enumerate(names)}
        expected = pb.ModelInferResponse(
            model_name="mf",
            model_version="7",
            id=request_id or prediction_id,
            outputs=[{"name": name, "datatype": "FP32", "shape": [count]} for name in names],
            raw_output_contents=raw.values(),
        )
        expected.parameters["arm"].string_param = "control"
        expected.parameters["prediction_id"].string_param = prediction_id
        assert pb.ModelInferResponse.FromString(template.render(request_id, prediction_id, count, raw)) == expected
