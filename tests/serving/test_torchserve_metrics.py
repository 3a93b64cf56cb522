"""TorchServe's metrics as our page shows them."""

import asyncio
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving import torchserve_metrics
from serving.torchserve import address
from serving.torchserve_metrics import TorchServeMetrics, renamed

PAGE = """# HELP MemoryUsed Torchserve prometheus gauge metric with unit: Megabytes
# TYPE MemoryUsed gauge
MemoryUsed{Level="Host",Hostname="box",} 7.0
# TYPE ts_inference_requests_total counter
ts_inference_requests_total{model_name="mf",model_version="1",hostname="box",} 3.0
# HELP DriftwheelRows Rows that were scored.
# TYPE DriftwheelRows counter
DriftwheelRows{ModelName="mf",ModelVersion="2",} 40.0
# TYPE GPUMemoryUtilization gauge
GPUMemoryUtilization{Level="Host",} 0.5
# TYPE ts_queue_latency_microseconds untyped
ts_queue_latency_microseconds{model_name="mf"} 12.5
# TYPE Wait histogram
Wait_bucket{le="1.0"} 1.0
Wait_bucket{le="+Inf"} 2.0
Wait_count 2.0
Wait_sum 3.0
"""


class Site:
    """Serves a page at ``/metrics``."""

    def __init__(self, folder: Path) -> None:
        self.page = PAGE.encode()
        self.scrapes = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.scrapes += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(site.page)

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.place = address.TorchServeAddress(
            pid=1,
            started_ticks=0,
            grpc="",
            http="",
            management="",
            metrics=f"http://127.0.0.1:{self.server.server_port}",
            key_file=None,
            models={},
        )
        address.write(folder, self.place)


@pytest.fixture
def site(tmp_path: Path) -> Generator[Site]:
    site = Site(tmp_path)
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


def shown(folder: Path) -> dict[str, float]:
    """The page's samples by name, as a scraper reads them."""
    metrics = TorchServeMetrics(folder)
    page = asyncio.run(metrics.content()).decode()
    metrics.close()
    return {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}


def test_they_bear_our_prefix_and_our_spelling(site: Site, tmp_path: Path) -> None:
    assert shown(tmp_path) == {
        "driftwheel_torchserve_up": 1.0,
        "driftwheel_torchserve_memory_used": 7.0,
        "driftwheel_torchserve_inference_requests_total": 3.0,
        "driftwheel_torchserve_rows_total": 40.0,
        "driftwheel_torchserve_gpu_memory_utilization": 0.5,
        "driftwheel_torchserve_queue_latency_microseconds": 12.5,
        "driftwheel_torchserve_wait_bucket": 2.0,
        "driftwheel_torchserve_wait_count": 2.0,
        "driftwheel_torchserve_wait_sum": 3.0,
    }


def test_labels_and_kinds_stay() -> None:
    families = {family.name: family for family in renamed(PAGE)}
    requests = families["driftwheel_torchserve_inference_requests"]
    assert (requests.type, requests.samples[0].labels["model_version"]) == ("counter", "1")
    assert families["driftwheel_torchserve_memory_used"].documentation.startswith("Torchserve prometheus gauge")
    assert [sample.labels for sample in families["driftwheel_torchserve_wait"].samples[:2]] == [
        {"le": "1.0"},
        {"le": "+Inf"},
    ]


def test_too_many_samples_are_refused() -> None:
    lines = ["# TYPE x gauge", *(f'x{{id="{n}"}} 1.0' for n in range(2001))]
    (family,) = renamed("\n".join(lines[:2001]))
    assert len(family.samples) == 2000
    with pytest.raises(ValueError, match="more than 2000 samples"):
        renamed("\n".join(lines))


@pytest.mark.parametrize("damage", ["gone", "never started", "damaged", "no url", "nonsense", "no text", "large"])
def test_what_cannot_be_scraped_is_down_and_nothing_else_is_shown(site: Site, tmp_path: Path, damage: str) -> None:
    path = tmp_path / address.ADDRESS
    if damage == "gone":
        address.write(tmp_path, msgspec.structs.replace(site.place, metrics="http://127.0.0.1:1"))
    elif damage == "never started":
        path.unlink()
    elif damage == "damaged":
        path.write_text("{")
    elif damage == "no url":
        address.write(tmp_path, msgspec.structs.replace(site.place, metrics="file:///etc"))
    else:
        site.page = {"nonsense": b"{{{{", "no text": b"\xff\xff", "large": b"# " + b"x" * 2**20}[damage]
    assert shown(tmp_path) == {"driftwheel_torchserve_up": 0.0}


def test_a_page_is_good_for_a_second(site: Site, tmp_path: Path) -> None:
    now = [0.0]

    async def main() -> None:
        metrics = TorchServeMetrics(tmp_path, clock=lambda: now[0])
        first, again = await asyncio.gather(metrics.content(), metrics.content())
        assert (first == again, site.scrapes) == (True, 1)
        now[0] = 0.9
        await metrics.content()
        assert site.scrapes == 1
        now[0] = 1.0
        await metrics.content()
        assert site.scrapes == 2
        metrics.close()

    asyncio.run(main())


def test_one_that_hangs_holds_up_no_scrape_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchserve_metrics, "_TIMEOUT_S", 0.05)
    site = Site(tmp_path)  # it listens, and nobody answers
    assert shown(tmp_path) == {"driftwheel_torchserve_up": 0.0}
    site.server.server_close()


def test_an_empty_page_is_a_page() -> None:
    assert renamed("") == []
    assert generate_latest(torchserve_metrics._These([])) == b""
