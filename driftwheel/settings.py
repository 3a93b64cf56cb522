"""Every setting of Driftwheel, in one place.

Flags win over the environment, that over the TOML file, that over the defaults. The environment speaks
``DRIFTWHEEL_HOME=...`` and, for nested settings, ``DRIFTWHEEL_SERVING__PORT=9000``. The TOML file is ``driftwheel.toml``
in the working folder, or the one that ``--config`` or ``DRIFTWHEEL_CONFIG`` names. Nothing else in the project reads
the environment; settings are passed in, never global.
"""

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from driftwheel.errors import ConfigurationError
from driftwheel.feature_store import FeatureSettings
from driftwheel.log import LogFormat
from driftwheel.processes import RESOLVED_VARIABLE, with_settings
from driftwheel.serving_settings import (
    ClientSettings,
    LogSettings,
    Section,
    SecuritySettings,
    ServingSettings,
    TorchServeSettings,
    TracingSettings,
)


class TrackingSettings(Section):
    """MLflow."""

    uri: str | None = Field(default=None, repr=False)
    """A tracking server (http://...) or a database (mysql+pymysql://..., postgresql+psycopg://...); unset, SQLite in the
    home folder. A password in it is never shown; give it by the environment or the TOML file."""
    artifacts: str | None = None
    """Where a new experiment's artifacts go, s3:// for one; unset, a folder in the home, or whatever a tracking server says."""
    s3_endpoint: str | None = None
    """The URL of an S3 that is not Amazon's: MinIO, for one. Its keys come from where AWS's tools look."""
    experiment: str = "driftwheel"
    """The MLflow experiment that runs are filed under."""


class TrainingSettings(Section):
    """Distributed training."""

    ranks: int = Field(default=2, ge=1)
    """Processes on this machine (torchrun --nproc-per-node)."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Everything random in training follows from it."""
    timeout_s: float = Field(default=3600.0, gt=0)
    """A training job that takes longer is ended."""
    parameters: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Parameters of the estimator, by name (train --set); they go before those of tuning and of the champion."""
    precision: Literal["float32", "bf16"] = "float32"
    """What matrix products are computed in; weights, sums and losses are float32."""
    shard_tables: bool = False
    """Spread the rows of the tables that sgd trains over the ranks, for tables that do not fit one device."""
    pipeline: bool = False
    """Spread the churn network's layers over two ranks, as the two stages of a pipeline."""
    max_restarts: int = Field(default=1, ge=0)
    """How often all ranks are started again when one dies; they go on from the last checkpoint (torchrun --max-restarts)."""
    silence_s: float = Field(default=600.0, gt=0)
    """A rank that the others hear nothing of for so long is taken for dead."""
    nodes: int = Field(default=1, ge=1)
    """Machines that train one job together, each with as many ranks; they share the home folder (torchrun --nnodes)."""
    rendezvous: str | None = Field(default=None, pattern=r"^\S+:\d+$")
    """HOST:PORT where the nodes meet: an address of the node that starts the training (torchrun --rdzv-endpoint)."""
    address: str | None = None
    """How other nodes reach this one; unset, by its host name (torchrun --local-addr)."""
    interface: str | None = None
    """The network interface between the nodes; unset, whichever the host name leads to."""

    @model_validator(mode="after")
    def _fit_together(self) -> "TrainingSettings":
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"nodes is {self.nodes}: rendezvous must say as HOST:PORT where they meet")
        if self.pipeline and self.ranks * self.nodes != 2:
            raise ValueError(f"pipeline wants 2 ranks in all, got {self.ranks} on each of {self.nodes} nodes")
        return self


class TuningSettings(Section):
    """The search for good knobs."""

    storage: str | None = Field(default=None, repr=False)
    """Where studies are kept: a file on this host, or mysql+pymysql://... or postgresql+psycopg://... for workers on many
    hosts; unset, a file in the home. A password in it is never shown; give it by the environment or the TOML file."""
    trials: int = Field(default=40, ge=0)
    """A study ends with so many trials, those of all its workers and of earlier runs together."""
    workers: int = Field(default=1, ge=1)
    """Worker processes that ``driftwheel tune`` starts on this host; they share its cores."""
    timeout_s: float | None = Field(default=None, gt=0)
    """A worker ends after so many seconds; the trial under way is queued again. Unset, when the trials are done."""
    startup_trials: int = Field(default=5, ge=0)
    """Trials that must be done before one is pruned."""
    warmup_epochs: int = Field(default=5, ge=0)
    """Epochs of a trial before it may be pruned."""
    heartbeat_s: int = Field(default=15, ge=1)
    """How often a worker says in the database that it lives."""
    grace_s: int = Field(default=60, ge=2)
    """A worker that has not said so for so long is taken for dead: its trial is failed and queued again."""
    retries: int = Field(default=2, ge=0)
    """How often a trial whose worker died is queued again."""
    use_best: bool = True
    """Whether training takes the best parameters that were found for a model in place of the defaults."""


class DriftSettings(Section):
    """The drift decision."""

    window_rows: int = Field(default=2000, ge=100)
    """Rows of one window; a smaller rest is not judged."""
    window_hours: float | None = Field(default=None, gt=0)
    """Windows of so many hours, back from the newest row; those with fewer than ``window_rows`` rows are passed over. Unset,
    windows are of ``window_rows`` rows each. Thresholds are those of ``window_rows`` rows: with more rows they err on the safe
    side."""
    windows: int = Field(default=3, ge=1)
    """The newest windows that are looked at together."""
    windows_needed: int = Field(default=2, ge=1)
    """Drift is called when at least this many of them drift."""
    alpha: float = Field(default=0.001, gt=0, lt=1)
    """The family-wise false alarm rate of one window, over all monitors (Holm)."""
    units: Literal["users", "rows"] = "users"
    """What is independent of each other in models with users: users (a window that is a few people's does not alarm), or
    rows (any change in what is asked counts, though it be because other users came)."""
    check_every_s: float = Field(default=300.0, gt=0)
    """How often ``drift watch`` looks at a model that has no candidate on trial."""
    quality_margin: float = Field(default=0.05, gt=0)
    """Quality is down when its loss is this share above the reference's, beyond its confidence bound."""
    keep_reports: int = Field(default=100, ge=1)
    """The newest reports that stay, of each model in the home and of each version in MLflow; one has some megabytes."""


class RetrainSettings(Section):
    """When retraining may start by itself, and where."""

    runner: Literal["local", "kubernetes-job", "train-job"] = "local"
    """Where retrains go that ``drift watch`` and alerts start: into processes of their own, or into a Job or a TrainJob each of
    the cluster and namespace that the loop runs in, on the same home."""
    job_template: str = "driftwheel-retrain"
    """The CronJob whose Job ``kubernetes-job`` makes, with the words of its own retrain."""
    cool_down_s: float = Field(default=3600.0, ge=0)
    """The least time between two retrains of a model."""
    daily_cap: int = Field(default=4, ge=0)
    """The most retrains of a model in 24 hours."""
    budget_hours: float | None = Field(default=None, gt=0)
    """The most hours that a model's retrains may have taken in 30 days for another one to start by itself; unset, as many as
    ``daily_cap`` allows."""
    every_days: float | None = Field(default=None, gt=0)
    """``drift watch --retrain`` also retrains a model whose version in service is so old; unset, on drift alone."""
    steps: tuple[float, ...] | None = None
    """The shares of traffic that a retrained version gets, step by step; unset, as ``canary start`` has them."""

    @field_validator("steps")
    @classmethod
    def _are_steps(cls, steps: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if steps is not None and (not steps or list(steps) != sorted({min(max(step, 0.0), 1.0) for step in steps})):
            raise ValueError("must be shares of traffic that grow, from 0 to 1")
        return steps


class MonitoringSettings(Section):
    """``driftwheel monitoring serve``: metrics of what the wheel decided, and retrains that alerts ask for."""

    host: str = "127.0.0.1"
    """The address to listen on; loopback unless told otherwise."""
    port: int = Field(default=9108, ge=0, le=65535)
    """The port; 0 takes a free one."""
    token_file: Path | None = None
    """Tokens of those who may ask for retrains; unset, the server's (``security.token_file``)."""


class JudgeSettings(Section):
    """When a candidate advances, is promoted or aborted."""

    min_requests: int = Field(default=200, ge=1)
    """Requests of each arm below which the verdict is HOLD."""
    min_labels: int = Field(default=200, ge=1)
    """Labelled predictions of each arm that the quality test wants."""
    alpha: float = Field(default=0.02, gt=0, lt=1)
    """A bound of the chance, over a whole rollout of any length, to abort a candidate that is as good as stable."""
    error_margin: float = Field(default=0.0, ge=0)
    """How much higher the candidate's error rate may be. Above 0, more requests are needed to show that it is exceeded."""
    latency_margin: float = Field(default=0.05, ge=0)
    """How much longer the candidate's slowest requests may take, as a share of control's in the same quarter of a second.
    Rounded up to steps of 1%."""
    quality_margin: float = Field(default=0.005, ge=0)
    """How much higher the candidate's mean loss may be, as a share of stable's."""
    auc_margin: float = Field(default=0.005, ge=0)
    """How much lower the area under the candidate's ROC curve may be than stable's on the same requests."""
    look_every_s: float = Field(default=60.0, gt=0)
    """How often ``drift watch`` lets the judge look at a candidate."""
    max_days: float = Field(default=14.0, ge=0)
    """A trial that takes longer is aborted; 0: never."""


class Settings(BaseSettings):
    """All of it. Made by ``load_settings``."""

    model_config = SettingsConfigDict(
        env_prefix="DRIFTWHEEL_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    home: Path = Path(".driftwheel")
    """The folder that all state lies under."""
    models_folder: Path | None = None
    """Where bundles lie; unset, ``models`` in the home."""
    log_format: LogFormat = "console"
    """Events as lines for people, or as JSON."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """The least severe events that are shown."""
    serving: ServingSettings = ServingSettings()
    torchserve: TorchServeSettings = TorchServeSettings()
    security: SecuritySettings = SecuritySettings()
    client: ClientSettings = ClientSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    tracking: TrackingSettings = TrackingSettings()
    training: TrainingSettings = TrainingSettings()
    tuning: TuningSettings = TuningSettings()
    drift: DriftSettings = DriftSettings()
    retrain: RetrainSettings = RetrainSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    judge: JudgeSettings = JudgeSettings()
    features: FeatureSettings = FeatureSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the TOML file that ``load_settings`` chose."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def models(self) -> Path:
        """Where bundles lie."""
        return self.models_folder or self.home / "models"

    @property
    def rollouts(self) -> Path:
        """Where rollout files lie."""
        return self.home / "rollouts"

    @property
    def refusals(self) -> Path:
        """Where servers say which candidates they could not load."""
        return self.home / "refusals"

    @property
    def looks(self) -> Path:
        """Where the judge keeps its newest look at each trial."""
        return self.home / "looks"

    @property
    def data(self) -> Path:
        """Where prepared datasets lie."""
        return self.home / "data"

    @property
    def jobs(self) -> Path:
        """Where training jobs leave checkpoints and progress."""
        return self.home / "jobs"

    @property
    def tuning_folder(self) -> Path:
        """Where studies, their trials' jobs and the best parameters of each model lie."""
        return self.home / "tuning"

    @property
    def prediction_log(self) -> Path:
        """Where predictions and feedback are logged."""
        return self.home / "log"

    @property
    def reports(self) -> Path:
        """Where drift reports lie."""
        return self.home / "reports"

    @property
    def ledger(self) -> Path:
        """The SQLite file of every verdict, decision and retrain."""
        return self.home / "ledger.sqlite"

    @property
    def features_folder(self) -> Path:
        """The feature repository: offline files, registry, and the online store where it is SQLite."""
        return self.home / "features"

    @property
    def engine_cache(self) -> Path:
        """Engines that TensorRT built for this machine; whatever is deleted is built again."""
        return self.home / "cache" / "tensorrt"

    @property
    def torchserve_folder(self) -> Path:
        """Where the TorchServe of this home lives: its address, and the folders of its processes."""
        return self.home / "torchserve"

    @property
    def runtime(self) -> Path:
        """Locks, sockets and the server's address; worthless once the processes are gone."""
        return self.home / "run"

    def child_environment(self) -> dict[str, str]:
        """The environment of a child process of ours: this one's, and the settings that ``load_settings`` reads back."""
        return with_settings(self.model_dump_json())


def load_settings(*, config: Path | None = None, **flags: Any) -> Settings:
    """Resolve the settings once, at the start of a process.

    Args:
        config: The TOML file; it must be there when given.
        flags: Values from the command line; nested ones as dictionaries, absent ones left out.

    Raises:
        ConfigurationError: A value does not fit; the message names the setting and what came.
    """
    if (resolved := os.environ.get(RESOLVED_VARIABLE)) is not None:
        return _validated(lambda: Settings.model_validate(_merged(json.loads(resolved), flags)))
    named = config or (Path(value) if (value := os.environ.get("DRIFTWHEEL_CONFIG")) else None)
    if named is not None and not named.is_file():
        raise ConfigurationError(f"configuration file {named} does not exist")
    toml = named or Path("driftwheel.toml")

    class Resolved(Settings):
        model_config = SettingsConfigDict(toml_file=toml)

    return _validated(lambda: Resolved(**flags))


def _merged(values: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    nested = {name: {**values[name], **flag} for name, flag in flags.items() if isinstance(flag, dict)}
    return {**values, **flags, **nested}


def _validated(make: Callable[[], Settings]) -> Settings:
    try:
        settings = make()
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, got {fault['input']!r}" for fault in error.errors()
        )
        raise ConfigurationError(f"these settings cannot be used: {faults}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"the configuration file is not TOML: {error}") from None
    models = settings.models_folder and settings.models_folder.absolute()
    return settings.model_copy(update={"home": settings.home.absolute(), "models_folder": models})
