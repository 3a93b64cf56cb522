"""The settings of the server: what it listens on, whom it lets in, what it runs, what it logs and traces."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """One section of the settings. Frozen; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


BackendName = Literal["auto", "onnx", "torchscript"]
"""What runs a model: ``onnx`` (onnxruntime), ``torchscript`` (PyTorch), or ``auto``, which takes onnx."""

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
"""Where a model runs: ``auto`` takes the first CUDA device where onnxruntime can use one, and the CPU elsewhere."""

GraphRows = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What holds for one model, every field settled. Made by ``ServingSettings.limits_for``; look it up once per load."""

    max_rows_per_request: int
    max_batch_rows: int
    max_queued_rows: int
    max_queue_delay_ms: float
    backend: BackendName
    device: Device
    intra_op_threads: int
    cuda_graph_rows: tuple[int, ...]


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
    device: Device | None = None
    """Where the model runs."""
    intra_op_threads: int | None = Field(default=None, ge=0)
    """Threads inside one run of the graph; 0 lets the runtime choose."""
    cuda_graph_rows: tuple[GraphRows, ...] | None = None
    """Row counts that are recorded as CUDA graphs."""


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
    max_batch_rows: int = Field(default=8192, ge=1)
    """The most rows that one run of the model takes together."""
    max_queued_rows: int = Field(default=1_000_000, ge=1)
    """The most rows that wait for a busy model; past it the answer is RESOURCE_EXHAUSTED / 429."""
    max_queue_delay_ms: float = Field(default=0.0, ge=0)
    """How long a request may wait for others to share its run; 0: an idle model runs at once. Worth it on accelerators."""
    inline_run_us: int = Field(default=500, ge=0)
    """Runs expected to be shorter than this stay on the event loop, longer ones go to a thread."""
    backend: BackendName = "auto"
    """What runs the models: onnx, torchscript, or auto (onnx)."""
    device: Device = "auto"
    """Where the models run: cpu, cuda, tensorrt, or auto (CUDA where there is one)."""
    intra_op_threads: int = Field(default=1, ge=0)
    """Threads inside one run of a graph; 0 lets the runtime choose."""
    cuda_graph_rows: tuple[GraphRows, ...] = ()
    """Row counts that are recorded as CUDA graphs; a run is padded to the next one. None by default; CUDA only."""
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

    def limits_for(self, name: str) -> ModelLimits:
        """What holds for a model: its own settings where it has any, the server's elsewhere."""
        own = self.models.get(name, ModelSettings())
        settled = {key: getattr(self, key) if value is None else value for key, value in own}
        return ModelLimits(**settled)


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
    """A segment of this size is sealed to Parquet."""
    seal_after_s: float = Field(default=60.0, gt=0)
    """A segment of this age is sealed to Parquet."""
    compression: Literal["none", "lz4", "zstd"] = "lz4"
    """How sealed segments are compressed: none takes least time of the server, zstd least of the disk."""


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
