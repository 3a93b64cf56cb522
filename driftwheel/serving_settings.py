"""The settings of the server: what it listens on, whom it lets in, what it runs, what it logs and traces."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """One section of the settings. Frozen; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


BackendName = Literal["auto", "onnx", "factors", "torchscript", "torchserve"]
"""What runs a model: ``onnx`` (onnxruntime), ``factors`` (a factorization's own arithmetic, on the CPU), ``torchscript``
(PyTorch), ``torchserve`` (a TorchServe beside the server), or ``auto``, which takes factors where they say what the graph says,
and else onnx."""

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
"""Where a model runs: ``auto`` takes the first CUDA device where onnxruntime can use one, and the CPU elsewhere."""

GraphRows = Annotated[int, Field(ge=1)]

_BATCH_ROWS = 8192
_REMOTE_BATCH_ROWS = 32_768
"""Where each run is a call, which costs as much as some thousands of rows do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What holds for one version of a model, every field settled. Made by ``ServingSettings.limits_for``; look it up once per
    load.
    """

    max_rows_per_request: int
    max_batch_rows: int
    max_queued_rows: int
    max_queue_delay_ms: float
    backend: BackendName
    device: Device
    intra_op_threads: int
    cuda_graph_rows: tuple[int, ...]
    torchserve_timeout_s: float


class ModelSettings(Section):
    """``[serving.models.<name>]``: what is different for one model; unset, what the server says."""

    max_rows_per_request: int | None = Field(default=None, ge=1)
    """The most rows that one request may hold."""
    max_batch_rows: int | None = Field(default=None, ge=1)
    """The most rows that one run of the model takes together."""
    max_queued_rows: int | None = Field(default=None, ge=1)
    """The most rows that wait while the model is busy."""
    max_queue_delay_ms: float | None = Field(default=None, ge=0)
    """How long a request may wait for others to share its run."""
    backend: BackendName | None = None
    """What runs the model."""
    version_backends: dict[int, BackendName] = Field(default_factory=dict[int, BackendName])
    """What runs single versions of it, by number: a candidate may run elsewhere than stable."""
    device: Device | None = None
    """Where the model runs."""
    intra_op_threads: int | None = Field(default=None, ge=0)
    """Threads inside one run of the graph; 0 lets the runtime choose."""
    cuda_graph_rows: tuple[GraphRows, ...] | None = None
    """Row counts that are recorded as CUDA graphs."""
    torchserve_timeout_s: float | None = Field(default=None, gt=0)
    """How long TorchServe may take for one run."""


class ServingSettings(Section):
    """The server."""

    host: str = "127.0.0.1"
    """The address to listen on; loopback unless told otherwise."""
    port: int = Field(default=8080, ge=0, le=65535)
    """The one port, for gRPC and HTTP alike; 0 takes a free one."""
    max_request_bytes: int = Field(default=16 * 2**20, ge=1024)
    """The largest request body that is read."""
    max_rows_per_request: int = Field(default=65_536, ge=1)
    """The most rows that one request may hold."""
    max_batch_rows: int | None = Field(default=None, ge=1)
    """The most rows that one run of the model takes together; unset: 8192, and 32768 where TorchServe runs it."""
    max_queued_rows: int = Field(default=1_000_000, ge=1)
    """The most rows that wait for a busy model; past it the answer is RESOURCE_EXHAUSTED / 429."""
    max_queue_delay_ms: float = Field(default=0.0, ge=0)
    """How long a request may wait for others to share its run; 0: an idle model runs at once. Worth it on accelerators."""
    inline_run_us: int = Field(default=500, ge=0)
    """Runs expected to be shorter than this stay on the event loop, longer ones go to a thread."""
    backend: BackendName = "auto"
    """What runs the models: onnx, factors, torchscript, torchserve, or auto (factors where they can be, and else onnx)."""
    device: Device = "auto"
    """Where the models run: cpu, cuda, tensorrt, or auto (CUDA where there is one)."""
    intra_op_threads: int = Field(default=1, ge=0)
    """Threads inside one run of a graph; 0 lets the runtime choose."""
    cuda_graph_rows: tuple[GraphRows, ...] = ()
    """Row counts that are recorded as CUDA graphs; a run is padded to the next one. None by default; CUDA only."""
    torchserve_timeout_s: float = Field(default=10.0, gt=0)
    """How long TorchServe may take for one run; past it the answer is UNAVAILABLE / 503."""
    models: dict[str, ModelSettings] = Field(default_factory=dict[str, ModelSettings])
    """What is different for single models, by name."""
    max_top_k: int = Field(default=1000, ge=1)
    """The most items that one user is recommended."""
    max_recommend_users: int = Field(default=256, ge=1)
    """The most users that one request for recommendations may name."""
    max_recommend_ids: int = Field(default=10_000, ge=1)
    """The most entries of a user's exclude, candidates and ratings, each; together over all users, max_rows_per_request."""
    max_queued_users: int = Field(default=2048, ge=1)
    """The most users whose recommendations wait for those before them; past it the answer is RESOURCE_EXHAUSTED / 429."""
    recommend_threads: int = Field(default=0, ge=0)
    """Threads of one search of a large catalogue; 0: one for each processor. Small ones take one in any case."""
    workers: int = Field(default=1, ge=1, le=128)
    """Processes that share the port, each with all models loaded; a dead one is started again while the others go on."""
    front_door_threads: int = Field(default=1, ge=1)
    """Threads of Envoy in each process; Python runs on one more."""
    metrics: bool = True
    """Count requests, latencies and runs; False is for measuring what counting costs."""
    poll_interval_ms: int = Field(default=200, ge=10)
    """How often the rollout files are looked at."""
    drain_timeout_s: float = Field(default=20.0, ge=0)
    """How long calls in flight may take to finish after SIGTERM."""

    def limits_for(self, name: str, version: int | None = None) -> ModelLimits:
        """What holds for a model, or one of its versions: its own settings where it has any, the server's elsewhere."""
        own = self.models.get(name, ModelSettings())
        settled = {key: getattr(own, key) for key in ModelLimits.__dataclass_fields__}
        settled = {key: getattr(self, key) if value is None else value for key, value in settled.items()}
        if version in own.version_backends:
            settled["backend"] = own.version_backends[version]
        if settled["max_batch_rows"] is None:
            settled["max_batch_rows"] = _REMOTE_BATCH_ROWS if settled["backend"] == "torchserve" else _BATCH_ROWS
        return ModelLimits(**settled)

    def runs_on(self, backend: BackendName) -> bool:
        """Whether any model, or a version of one, is to run on a backend."""
        return backend == self.backend or any(
            backend == model.backend or backend in model.version_backends.values() for model in self.models.values()
        )


class TorchServeSettings(Section):
    """The TorchServe that ``driftwheel torchserve up`` starts. Workers and batches: benchmarks/torchserve_sweep.py."""

    models: tuple[str, ...] = ()
    """The models that it serves; none named: all that have a rollout."""
    versions: dict[str, tuple[int, ...]] = Field(default_factory=dict[str, tuple[int, ...]])
    """Versions by model that it serves beside those that the rollouts name."""
    host: str = Field(default="127.0.0.1", pattern="^[A-Za-z0-9.-]+$")
    """Where it answers predictions, over gRPC and HTTP; management and metrics stay on loopback. It speaks no TLS."""
    grpc_port: int = Field(default=0, ge=0, le=65535)
    """Predictions over gRPC, which the server's backend calls; 0 takes a free one. With any fixed port, a change restarts
    TorchServe; with none, a new one takes over from the old one."""
    http_port: int = Field(default=0, ge=0, le=65535)
    """Predictions over HTTP; 0 takes a free one."""
    management_port: int = Field(default=0, ge=0, le=65535)
    """The management API; 0 takes a free one."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Prometheus metrics, which the server's own page holds too; 0 takes a free one."""
    grpc_management_port: int = Field(default=0, ge=0, le=65535)
    """The management API over gRPC; 0 takes a free one."""
    workers_per_version: int = Field(default=1, ge=1, le=64)
    """Python processes for each version, each with the model loaded."""
    batch_size: int = Field(default=16, ge=1, le=4096)
    """The most requests that one run of the model takes together."""
    max_batch_delay_ms: int = Field(default=1, ge=1)
    """How long a request may wait for others to share its run. TorchServe takes 0 for its default, 100."""
    queue_size: int = Field(default=1000, ge=1)
    """The requests of a version that wait while its workers are busy; past it the answer is UNAVAILABLE / 503."""
    response_timeout_s: int = Field(default=30, ge=1)
    """A worker that takes longer for a run is ended and started again."""
    max_request_bytes: int = Field(default=6_553_500, ge=1024)
    """The largest request that it reads, and the largest answer that it gives."""
    java: str = "java"
    """The Java runtime, 11 or newer: a name on the path, or a file."""
    java_heap_mib: int = Field(default=1024, ge=64)
    """The most memory for objects of the frontend; when it is full, TorchServe ends."""
    start_timeout_s: float = Field(default=120.0, gt=0)
    """How long it may take until a worker of each version is ready."""
    stop_timeout_s: float = Field(default=20.0, gt=0)
    """How long calls in flight may take to finish when it is stopped."""


class SecuritySettings(Section):
    """Who may reach the server, and how much one client may ask of it."""

    tls_certificate: Path | None = None
    """The server's certificate chain, a PEM file; with it the port speaks TLS only."""
    tls_key: Path | None = None
    """The certificate's private key, a PEM file that other users cannot open."""
    tls_client_ca: Path | None = None
    """The authorities, a PEM file, one of which must have signed the certificate that every client then has to show."""
    token_file: Path | None = None
    """Bearer tokens by role; unset, ``tokens.toml`` in the home where it exists when the server starts."""
    allowed_hosts: tuple[str, ...] | None = None
    """The names that clients may call the server by (``*.example.org`` takes all under it, ``*`` any); unset, ``localhost``
    and loopback addresses while it listens on loopback only, else any. Keeps web pages out that point their name here."""
    requests_per_second: float = Field(default=0.0, ge=0)
    """The requests of one client address that are answered each second, health checks aside; 0: no limit."""
    request_burst: int | None = Field(default=None, ge=1)
    """The requests that one address may send at once after a rest; unset, a second's worth."""
    trusted_proxies: int = Field(default=0, ge=0)
    """Proxies before the server that append to ``x-forwarded-for``; an address is then the one that the first of them saw."""
    max_connections: int = Field(default=10_000, ge=1)
    """Connections that are open at a time; further ones are closed at once."""
    max_header_kib: int = Field(default=60, ge=1, le=8192)
    """The largest headers that a request may have, all together."""
    max_unfinished_bytes: int = Field(default=256 * 2**20, ge=1024)
    """What requests that are still arriving may hold together, in each worker; further ones are told to come back (429)."""
    request_timeout_s: float = Field(default=60.0, gt=0)
    """How long a request may take to arrive whole (its headers: 10 seconds at most); then it is refused."""
    stream_timeout_s: float = Field(default=300.0, gt=0)
    """How long nothing may move on a call, in either direction; then it is cut."""
    idle_timeout_s: float = Field(default=300.0, gt=0)
    """A connection that brings no request for so long is closed."""

    @property
    def tls(self) -> bool:
        """Whether the port speaks TLS."""
        return self.tls_certificate is not None


class LogSettings(Section):
    """The prediction and feedback log."""

    sample: float = Field(default=1.0, ge=0.0, le=1.0)
    """The share of requests that are logged."""
    flush_interval_ms: int = Field(default=100, ge=10)
    """What a crash of the server loses at most of the prediction log (accepted feedback is never lost)."""
    max_pending_mib: int = Field(default=256, ge=1)
    """What may wait for the disk; past it requests are dropped from the log, and counted."""
    seal_mib: int = Field(default=16, ge=1)
    """A segment of this size is finished, and then sealed to Parquet by a process beside the server."""
    seal_after_s: float = Field(default=60.0, gt=0)
    """A segment of this age is finished likewise."""
    compression: Literal["none", "lz4", "zstd"] = "lz4"
    """How sealed segments are compressed: lz4 quickly, zstd well."""
    keep_days: float | None = Field(default=None, gt=0)
    """Predictions are deleted this long after they were sealed; unset, never: retrains learn from all that there are."""
    keep_mib: int | None = Field(default=None, ge=1)
    """Of a larger log the oldest predictions are deleted; unset, it grows."""
    labels_within_days: float = Field(default=1.0, gt=0)
    """How late labels come. Predictions that are younger are never deleted, nor those that a running trial is judged by."""

    @model_validator(mode="after")
    def _keeps_what_waits(self) -> "LogSettings":
        if self.keep_days is not None and self.keep_days < self.labels_within_days:
            raise ValueError(
                f"keep_days is {self.keep_days:g}, but labels may come for {self.labels_within_days:g} days"
            )
        return self


class TracingSettings(Section):
    """OpenTelemetry traces of requests; needs the extra ``tracing``."""

    endpoint: str | None = Field(default=None, pattern="^https?://[^/]+")
    """A collector that takes OTLP over HTTP, for example ``http://localhost:4318``; unset, nothing is traced."""
    sample: float = Field(default=1.0, ge=0.0, le=1.0)
    """The share of requests that are traced where the caller has not decided; where it has, that holds."""
    service_name: str = Field(default="driftwheel", min_length=1)
    """What traces call the server."""
    export_interval_ms: int = Field(default=5000, ge=10)
    """How often spans are sent, unless so many come that it is sooner."""


class ClientSettings(Section):
    """How this home's own commands reach a server that asks for a token, or speaks TLS."""

    token_file: Path | None = None
    """A file that holds one token, for the roles infer and feedback; `driftwheel token new` makes one."""
    tls_ca: Path | None = None
    """Certificates (PEM) that the server's must lead to; unset, those of the system."""
    tls_certificate: Path | None = None
    """The commands' own certificate (PEM), where the server asks for one."""
    tls_key: Path | None = None
    """The key to it (PEM)."""
    tls_server_name: str | None = None
    """The name in the server's certificate, where it is not the address that it listens on."""
