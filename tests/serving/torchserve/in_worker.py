"""A handler in this process, held as TorchServe's worker holds it: with TorchServe's own context."""

import importlib
import json
import struct
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from driftwheel.bundle import ONNX_GRAPH, Bundle
from driftwheel.preprocessing import encode
from exporters.archive import write_archive
from serving.backends.onnx import OnnxBackend

HANDLERS = Path(__file__).parents[3] / "serving/torchserve/handlers"

REST = {"Host": "localhost"}
PAIR = {"user_id": 7, "item_id": 10}


def raw(*ids: int) -> bytes:
    return np.array(ids, "<i8").tobytes()


def text(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


@dataclass
class Served:
    """A handler as a worker holds it."""

    handler: Any
    bundle: Bundle
    folder: Path
    lines: list[str] = field(default_factory=list)
    """What went to the frontend's metrics."""
    statuses: list[int] = field(default_factory=list)
    """Of the last batch."""
    kinds: list[str | None] = field(default_factory=list)

    def batch(self, *requests: dict[str, Any], headers: dict[str, str] | None = None) -> list[bytes]:
        """The answers to one batch, which came over gRPC unless there are headers."""
        from ts.context import RequestProcessor

        context = self.context
        context.request_processor = [
            RequestProcessor({**{key: {} for key in one}, **(headers or {})}) for one in requests
        ]
        answers = self.handler.handle(list(requests), context)
        self.statuses = [context.get_response_status(n)[0] for n in range(len(requests))]
        self.kinds = [context.get_response_content_type(n) for n in range(len(requests))]
        return answers

    def json(self, body: Any) -> Any:
        """The answer to one JSON body over REST, as a value."""
        return json.loads(self.batch({"body": json.dumps(body).encode()}, headers=REST)[0])

    def fault(self, request: dict[str, Any]) -> str:
        """The message of a request that must be refused with 400; others in its batch are answered."""
        good = {"body": json.dumps(GOOD[self.bundle.name]).encode()}
        first, bad, last = self.batch(good, request, good, headers=REST)
        assert self.statuses == [200, 400, 200], bad
        assert bad.startswith(b'{"code":400,"type":"BadRequestException","message":')
        assert isinstance(json.loads(first)[0], float)
        assert first == last
        return json.loads(bad)["message"]

    @property
    def context(self) -> Any:
        """Made anew for each batch, as far as it matters."""
        return self._context

    def start(self, gpu: int | None = None) -> "Served":
        """Load, as TorchServe does."""
        from ts.context import Context
        from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file open
            metrics = MetricsCacheYamlImpl(str(HANDLERS / "driftwheel_metrics.yaml"))
        metrics.initialize_cache()
        metrics.model_name = self.bundle.name
        self._context = Context(self.bundle.name, str(self.folder), None, 8, gpu, "0.12.0", metrics=metrics)
        self.handler.initialize(self._context)
        return self


GOOD = {"mf": [PAIR], "films": [{"user_id": 1, "item_id": 1}], "churn": [{"contract": "One year", "tenure": 3}]}
CLASSES = {"rating": ("driftwheel_mf", "RatingHandler"), "churn": ("driftwheel_churn", "ChurnHandler")}


def unpacked(bundle: Bundle, folder: Path) -> Path:
    with zipfile.ZipFile(write_archive(bundle)) as archive:
        archive.extractall(folder)
    return folder


def served(bundle: Bundle, folder: Path) -> Served:
    module, name = CLASSES[bundle.manifest.task]
    return Served(getattr(importlib.import_module(module), name)(), bundle, folder)


def in_process(bundle: Bundle, columns: dict[str, Any]) -> np.ndarray:
    feed = encode(bundle.manifest.signature, bundle.vocabularies(), columns)
    backend = OnnxBackend(bundle.path(ONNX_GRAPH), intra_op_threads=1)
    return backend.run(feed)[bundle.manifest.signature.outputs[0].name]


def scores(answer: bytes) -> np.ndarray:
    return np.frombuffer(answer, "<f4")
