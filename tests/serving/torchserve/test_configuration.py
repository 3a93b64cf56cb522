"""What a TorchServe would be told, without one."""

import json
import socket
import xml.etree.ElementTree as ET
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from driftwheel.errors import AddressInUseError, ConfigurationError
from driftwheel.serving_settings import TorchServeSettings
from serving.torchserve import configuration
from serving.torchserve.configuration import ArchivedVersion, Ports
from serving.torchserve.instance import Instance, Plan, prepare
from serving.torchserve.ports import any_fixed, chosen_ports, wanted_ports

PORTS = Ports(grpc=1, http=2, management=3, metrics=4, grpc_management=5)
VERSIONS = [
    ArchivedVersion("mf", 2, Path("archives/mf-2.mar"), "a"),
    ArchivedVersion("mf", 1, Path("archives/mf-1.mar"), "b"),
    ArchivedVersion("churn", 7, Path("archives/churn-7.mar"), "c"),
]


def told(settings: TorchServeSettings) -> dict[str, str]:
    lines = configuration.properties(settings, PORTS, VERSIONS).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_it_is_closed() -> None:
    properties = told(TorchServeSettings(host="192.168.0.7"))
    assert properties["inference_address"] == "http://192.168.0.7:2"
    assert properties["grpc_inference_address"] == "192.168.0.7"
    for name in ("management_address", "metrics_address", "grpc_management_address"):
        assert "127.0.0.1" in properties[name]
    expected = {
        "disable_token_authorization": "false",
        "enable_model_api": "false",
        "allowed_urls": "(?!)",
        "enable_envvars_config": "false",
        "use_env_allowed_urls": "false",
        "install_py_dep_per_model": "false",
    }
    assert expected.items() <= properties.items()
    assert int(properties["token_expiration_min"]) > 5 * 365 * 24 * 60


def test_every_setting_reaches_it() -> None:
    settings = TorchServeSettings(
        workers_per_version=3,
        batch_size=17,
        max_batch_delay_ms=9,
        queue_size=123,
        response_timeout_s=44,
        max_request_bytes=5555,
        java_heap_mib=321,
    )
    properties = told(settings)
    assert (properties["job_queue_size"], properties["default_response_timeout"]) == ("123", "44")
    assert properties["max_request_size"] == properties["max_response_size"] == "5555"
    assert properties["metrics_mode"] == "prometheus"
    assert properties["async_logging"] == properties["disable_system_metrics"] == "true"
    assert properties["load_models"] == "mf-2.mar,mf-1.mar,churn-7.mar"
    models = json.loads(properties["models"])
    assert {name: list(versions) for name, versions in models.items()} == {"mf": ["2", "1"], "churn": ["7"]}
    assert [models["mf"][one]["defaultVersion"] for one in ("2", "1")] == [True, False]
    assert models["churn"]["7"] == {
        "defaultVersion": True,
        "marName": "churn-7.mar",
        "minWorkers": 3,
        "maxWorkers": 3,
        "batchSize": 17,
        "maxBatchDelay": 9,
        "responseTimeout": 44,
    }
    command = configuration.command(
        settings, java="java", python="python", site=Path("/site"), scratch=Path("/scratch")
    )
    assert "-Xmx321m" in command
    assert "-Djava.io.tmpdir=/scratch" in command


@pytest.mark.parametrize("wrong", [{"max_batch_delay_ms": 0}, {"batch_size": 0}, {"host": "::1"}, {"grpc_port": 70000}])
def test_what_torchserve_would_misread_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TorchServeSettings.model_validate(wrong)


def test_java_reads_latin_1_and_escapes() -> None:
    (line,) = [
        line
        for line in configuration.properties(
            TorchServeSettings(), PORTS, [ArchivedVersion("mf", 1, Path("Größe€.mar"), "")]
        ).splitlines()
        if line.startswith("load_models")
    ]
    assert line == r"load_models=Gr\u00f6\u00dfe\u20ac.mar"


def test_logs_hold_warnings_and_no_calls() -> None:
    loggers = ET.fromstring(configuration.log4j2()).find("Loggers")  # noqa: S314 (our own)
    assert loggers is not None
    levels = {one.get("name", "root"): one.get("level") for one in loggers}
    assert levels == {
        "MODEL_LOG": "info",
        "ACCESS_LOG": "off",
        "TS_METRICS": "off",
        "MODEL_METRICS": "off",
        "root": "warn",
    }


def test_no_credentials_and_no_overrides_in_the_environment() -> None:
    given = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "AWS_SECRET_ACCESS_KEY": "x",
        "DRIFTWHEEL_RESOLVED_SETTINGS": "{}",
        "TS_CONFIG_FILE": "other",
        "TS_OPEN_INFERENCE_PROTOCOL": "oip",
        "LOG_LOCATION": "/elsewhere",
        "JAVA_TOOL_OPTIONS": "-javaagent:x",
    }
    seen = configuration.environment(given, Path("/scratch"))
    places = {"HOME": "/scratch", "TMPDIR": "/scratch", "LOG_LOCATION": ".", "METRICS_LOCATION": "."}
    assert seen == {"PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "1", **places}


def test_ports_are_free_and_differ() -> None:
    settings = TorchServeSettings()
    assert not any_fixed(wanted_ports(settings))
    ports = astuple(chosen_ports(settings))
    assert len(set(ports)) == 5
    assert all(ports)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUseError, match=f"127.0.0.1:{port} cannot be listened on") as caught:
            chosen_ports(TorchServeSettings(metrics_port=port))
    assert "torchserve.metrics_port" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (TorchServeSettings(grpc_port=4444, http_port=4444), "must differ, got 4444, 4444"),
        (TorchServeSettings(host="no-such-host.invalid"), "torchserve.host 'no-such-host.invalid' is not known here"),
        (TorchServeSettings(host="192.0.2.1"), "torchserve.host '192.0.2.1' cannot be listened on"),
    ],
)
def test_where_it_cannot_listen_is_said(settings: TorchServeSettings, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        chosen_ports(settings)


def plan(**changed: object) -> Plan:
    made = Plan(TorchServeSettings(), tuple(VERSIONS), java="java", python="python", site=Path("/site"))
    return replace(made, **changed)


def test_plans_are_the_same_where_they_would_start_the_same() -> None:
    other_archive = (replace(VERSIONS[0], sha256="z"), *VERSIONS[1:])
    assert plan().sum() == plan(settings=TorchServeSettings(start_timeout_s=1)).sum()
    different = [
        plan(settings=TorchServeSettings(batch_size=3)),
        plan(settings=TorchServeSettings(grpc_port=7070)),
        plan(settings=TorchServeSettings(java_heap_mib=99)),
        plan(versions=other_archive),
        plan(versions=tuple(VERSIONS[:2])),
        plan(python="other"),
    ]
    assert len({one.sum() for one in (plan(), *different)}) == 7


def test_a_folder_is_its_owners_alone_and_holds_the_archives(tmp_path: Path) -> None:
    archive = tmp_path / "mf-1.mar"
    archive.write_bytes(b"archive")
    made = plan(versions=(ArchivedVersion("mf", 1, archive, "sum"),))
    instance = prepare(tmp_path / "runs", made, PORTS)
    assert instance.folder.stat().st_mode & 0o777 == 0o700
    assert (instance.folder / "store/mf-1.mar").read_bytes() == b"archive"
    assert instance.was_started_with(made)
    assert not instance.was_started_with(plan())
    assert (instance.identity, instance.runs) == (None, False)


def test_the_reason_of_a_load_that_failed_is_found(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    assert instance.why_not_loaded("mf", 1) is None
    line = "2026 {} W-9000-{} {} - {}\n"
    failed = "Failed to load model mf, exception model.onnx is damaged"
    first = line.format("INFO ", "mf_1-stdout", "MODEL_LOG", failed)
    instance.log.write_text(first)
    assert instance.why_not_loaded("mf", 1) is None  # it may have been an accident
    instance.log.write_text(first + line.format("WARN ", "mf_1", "WorkerThread", "Auto recovery failed again"))
    assert instance.why_not_loaded("mf", 1) == "model.onnx is damaged"
    assert instance.why_not_loaded("mf", 11) is None
    assert instance.why_not_loaded("f", 1) is None
