"""A bundle inside TorchServe: the requests of a batch in one run of the graph, and each fault its own request's alone.

TorchServe runs this with nothing of ours installed: the files of an archive import numpy, onnxruntime (or PyTorch, where the
graph is TorchScript) and one another.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from driftwheel_archive import Archive, DamagedArchiveError
from driftwheel_graph import Feed, Graph, open_graph
from driftwheel_metrics import Counts, quieten
from driftwheel_questions import Wish
from driftwheel_recommend import Recommender
from driftwheel_requests import JSON_FIELDS, RefusedError, Scoring, read_columns, read_json, read_rows
from numpy.typing import NDArray

GOLDEN_TOLERANCE = 1e-5
"""The most that an answer may differ from the recorded one, absolutely."""

_MOST_ROWS = 262_144
"""Of one run of the graph; more, which only many huge requests in one batch hold, would take gigabytes at once."""
_TYPES = {400: "BadRequestException", 404: "ModelNotFoundException", 500: "InternalServerException"}
_PHRASES = {400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}

_log = logging.getLogger(__name__)

Fields = Mapping[str, Any]
Scores = NDArray[np.float32]


class _Description:
    """A request to describe the version."""


Asked = Scoring | Wish | _Description
Answer = bytes | RefusedError


class BundleHandler:
    """What TorchServe calls; a handler file inherits it.

    ``task`` is that of the bundles that the file is packed with.
    """

    task: str
    _archive: Archive
    _graph: Graph
    _recommender: Recommender | None
    _counts: Counts

    def initialize(self, context: Any) -> None:
        """Read the archive, load the graph, and prove it against the golden requests.

        Raises:
            DamagedArchiveError: A file is not the one that was packed, or the graph answers otherwise than when it was
                exported.
        """
        quieten()
        properties = context.system_properties
        archive = self._archive = Archive.read(Path(properties["model_dir"]))
        if archive.bundle["task"] != self.task:
            raise DamagedArchiveError(f"{archive.label} is for the task {archive.bundle['task']!r}, not {self.task!r}")
        self._graph = open_graph(archive.folder / archive.graph, archive.output, properties.get("gpu_id"))
        has_factors = (archive.folder / "factors").is_dir()
        self._recommender = Recommender(archive) if has_factors else None
        self._prove()
        self._counts = Counts(context.metrics, archive.bundle["name"], str(archive.bundle["version"]))

    def handle(self, data: Sequence[Fields], context: Any) -> list[bytes]:
        """Answers to a batch of requests, in order.

        Raises:
            PredictionException: A request that came alone, over gRPC, was refused: only so does its client see a status.
        """
        asked = [self._read(position, fields, context) for position, fields in enumerate(data)]
        answers: dict[int, Answer] = {n: one for n, one in enumerate(asked) if isinstance(one, RefusedError)}
        answers |= self._scored({n: one for n, one in enumerate(asked) if isinstance(one, Scoring)})
        answers |= self._recommended({n: one for n, one in enumerate(asked) if isinstance(one, Wish)})
        answers |= {n: self._described() for n, one in enumerate(asked) if isinstance(one, _Description)}
        if refused := sum(isinstance(one, RefusedError) for one in answers.values()):
            self._counts.add(refused=refused)
        return [self._sent(n, answers[n], asked[n], context, alone=len(data) == 1) for n in range(len(data))]

    def _read(self, position: int, fields: Fields, context: Any) -> Asked | RefusedError:
        try:
            if context.get_request_header(position, "describe") == "True":
                return _Description()
            if context.get_request_header(position, "explain") == "True":
                raise RefusedError("explanations are not made here")
            key = next(iter(fields), "")
            known = key in self._archive.graph_inputs or any(key == spec.name for spec in self._archive.inputs)
            if len(fields) != 1 or key not in JSON_FIELDS or known:
                return read_columns(self._archive, fields)
            body = read_json(fields[key])
            return self._read_wish(body) if self._is_wish(body) else read_rows(self._archive, body)
        except RefusedError as error:
            return error

    def _is_wish(self, body: Any) -> bool:
        """Whether it asks for recommendations: it names users and no item to score."""
        if self.task != "rating" or not isinstance(body, dict) or "instances" in body or "item_id" in body:
            return False
        return not {"user_id", "user_ids", "users"}.isdisjoint(cast("dict[str, Any]", body))

    def _read_wish(self, body: Any) -> Wish:
        if self._recommender is None:
            raise RefusedError(
                f"{self._archive.label} cannot recommend: its bundle has no factors; export it again", code=404
            )
        return self._recommender.reader.read(body)

    def _scored(self, wanted: Mapping[int, Scoring]) -> dict[int, Answer]:
        if not wanted:
            return {}
        order = sorted(wanted, key=lambda n: wanted[n].encoded)
        scores = self._run([wanted[n] for n in order])
        return {n: self._written(wanted[n], one) for n, one in zip(order, scores, strict=True)}

    def _run(self, requests: Sequence[Scoring]) -> list[Scores | RefusedError]:
        """The scores of each request, from one run of the graph; where that fails, each alone, to tell whose fault it is."""
        rows = sum(one.rows for one in requests)
        try:
            feed = _joined([self._feed(requests, encoded) for encoded in (False, True)])
            started = time.perf_counter()
            scores = self._outputs(feed, rows)
            run_ms = (time.perf_counter() - started) * 1e3
        except Exception as error:  # noqa: BLE001 (onnxruntime's and PyTorch's own exceptions share no narrower base class)
            if len(requests) > 1:
                return [self._run([one])[0] for one in requests]
            _log.exception("the model failed")
            return [RefusedError(f"the model failed: {error}", code=500)]
        self._counts.add(batches=1, rows=rows, run_ms=run_ms)
        return self._parts(requests, scores)

    def _parts(self, requests: Sequence[Scoring], scores: Scores) -> list[Scores | RefusedError]:
        """Each request's own scores; RefusedError in place of those that are not numbers."""
        parts: list[Scores | RefusedError] = []
        finite, start = bool(np.isfinite(scores).all()), 0
        for one in requests:
            mine = scores[start : start + one.rows]
            start += one.rows
            parts.append(mine if finite or np.isfinite(mine).all() else self._not_finite())
        return parts

    def _not_finite(self) -> RefusedError:
        name = self._archive.output
        return RefusedError(f"{self._archive.label} answered {name!r} with something that is not a number", code=500)

    def _feed(self, requests: Sequence[Scoring], encoded: bool) -> Feed:  # noqa: FBT001 (its two values are two kinds)
        """The graph inputs of the requests that came encoded, or of the others."""
        mine = [one.columns for one in requests if one.encoded is encoded]
        if not mine:
            return {}
        columns = _concatenated(mine)
        return columns if encoded else self._archive.encode(columns)

    def _outputs(self, feed: Feed, rows: int) -> Scores:
        parts = [
            self._graph.run({name: values[start : start + _MOST_ROWS] for name, values in feed.items()})
            for start in range(0, rows, _MOST_ROWS)
        ]
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if scores.shape != (rows,):
            raise ValueError(
                f"the graph must give {self._archive.output} of shape [{rows}], it gave {list(scores.shape)}"
            )
        return scores

    def _written(self, request: Scoring, scores: Scores | RefusedError) -> Answer:
        if isinstance(scores, RefusedError):
            return scores
        if request.form == "raw":
            return scores.astype("<f4", copy=False).tobytes()
        return _json({"predictions": scores.tolist()} if request.form == "envelope" else scores.tolist())

    def _recommended(self, wanted: Mapping[int, Wish]) -> dict[int, Answer]:
        if not wanted or self._recommender is None:
            return {}
        results = self._recommender.answer(list(wanted.values()))
        return {n: one if isinstance(one, RefusedError) else _json(one) for n, one in zip(wanted, results, strict=True)}

    def _described(self) -> bytes:
        bundle, signature = self._archive.bundle, self._archive.bundle["signature"]
        described = {
            "name": bundle["name"],
            "version": bundle["version"],
            "task": bundle["task"],
            "bundle_sha256": self._archive.checksum,
            "graph": self._archive.graph,
            "device": self._graph.device,
            "recommends": self._recommender is not None,
            "inputs": [{"name": one.name, "datatype": one.datatype} for one in self._archive.inputs],
            "outputs": [{key: one[key] for key in ("name", "datatype", "low", "high")} for one in signature["outputs"]],
        }
        return _json(described)

    def _sent(self, position: int, answer: Answer, asked: object, context: Any, *, alone: bool) -> bytes:
        """The answer's bytes; and for REST, which sees them, its type and status."""
        over_rest = _came_over_rest(context.get_all_request_header(position))
        if not isinstance(answer, RefusedError):
            if over_rest:
                raw = isinstance(asked, Scoring) and asked.form == "raw"
                kind = "application/octet-stream" if raw else "application/json"
                context.set_response_content_type(position, kind)
            return answer
        if alone and not over_rest:
            from ts.utils.util import PredictionException

            raise PredictionException(answer.message, answer.code)
        context.set_response_status(answer.code, _PHRASES[answer.code], position)
        context.set_response_content_type(position, "application/json")
        # TorchServe's gRPC knows no status of single requests: clients of raw columns tell a fault by this beginning, which as
        # the first of the scores would be 7e28.
        return _json({"code": answer.code, "type": _TYPES[answer.code], "message": answer.message})

    def _prove(self) -> None:
        """Answer the golden requests, which is the warm-up too."""
        inputs, expected = self._archive.golden()
        answers = self._outputs(self._archive.encode(inputs), len(expected))
        if not np.allclose(answers, expected, rtol=0, atol=GOLDEN_TOLERANCE, equal_nan=False):
            raise DamagedArchiveError(
                f"{self._archive.label} answers its golden requests otherwise than when it was exported"
            )
        if self._recommender is not None:
            user = self._archive.vocabularies["user_id"].entries[0]
            self._recommender.answer([self._recommender.reader.read({"user_id": user})])


def _joined(feeds: Sequence[Feed]) -> Feed:
    return _concatenated([feed for feed in feeds if feed])


def _concatenated(feeds: Sequence[Feed]) -> Feed:
    return feeds[0] if len(feeds) == 1 else {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _came_over_rest(headers: Mapping[str, Any]) -> bool:
    """Requests of gRPC have no headers of their own here, only a content type for each field."""
    return any(name.lower() == "host" for name in headers)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
