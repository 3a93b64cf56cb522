"""TorchServe's own metrics on our page: one scrape sees both.

They are added to the page as it goes out, not registered: with several workers each would count the same TorchServe again.
"""

import asyncio
import re
import time
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog
from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from serving.torchserve.address import read

PREFIX = "driftwheel_torchserve_"

_GOOD_FOR_S = 1.0
_TIMEOUT_S = 0.5
_MOST_BYTES = 2**20
_MOST_SAMPLES = 2000
"""TorchServe labels by model, version, worker and host; something is wrong where that makes more."""

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""It listens on this machine: a proxy that the environment names for the outside has no part in it."""

_log = structlog.get_logger()


class TorchServeMetrics:
    """Whether TorchServe answers, and what it says of itself. Used from one event loop.

    Args:
        folder: Of the TorchServe, where its address lies.
        clock: Seconds, monotonic.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="torchserve-metrics")
        self._turn = asyncio.Lock()
        self._page = b""
        self._asked_at = -_GOOD_FOR_S
        self._complaint = ""

    async def content(self) -> bytes:
        """The lines for our page, at most a second old. Takes half a second at most, where TorchServe hangs."""
        async with self._turn:
            if self._clock() - self._asked_at >= _GOOD_FOR_S:
                self._page = await asyncio.get_running_loop().run_in_executor(self._thread, self._made)
                self._asked_at = self._clock()
        return self._page

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _made(self) -> bytes:
        families: list[Metric] = []
        try:
            families = renamed(_scraped(self._folder))
            complaint = ""
        except (OSError, ValueError) as error:  # down, or not as it should be: both are told by the gauge
            complaint = str(error)
        if complaint and complaint != self._complaint:
            _log.warning("torchserve.not_scraped", reason=complaint)
        self._complaint = complaint
        up = GaugeMetricFamily(f"{PREFIX}up", "1 while TorchServe answers with its metrics.", float(not complaint))
        return generate_latest(_These([up, *families]))


class _These(Collector):
    """For prometheus_client to write out."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _scraped(folder: Path) -> str:
    """TorchServe's page.

    Raises:
        OSError: It does not answer.
        ValueError: Nothing that could be its page came, or too much, or its address is damaged.
    """
    address = read(folder)
    if address is None:
        raise FileNotFoundError(f"no TorchServe has been started in {folder}")
    if not address.metrics.startswith(("http://", "https://")):
        raise ValueError(f"the metrics address of TorchServe must be a URL, got {address.metrics!r}")
    with _OPENER.open(f"{address.metrics}/metrics", timeout=_TIMEOUT_S) as answer:
        content = answer.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"TorchServe's metrics have more than {_MOST_BYTES} bytes")
    return content.decode()


def renamed(page: str) -> list[Metric]:
    """Families under our prefix: ``ts_inference_requests_total`` becomes ``driftwheel_torchserve_inference_requests_total``,
    ``QueueTime`` ``driftwheel_torchserve_queue_time``, and our handlers' ``DriftwheelRows`` ``driftwheel_torchserve_rows``.

    Raises:
        ValueError: It is not an exposition of metrics, or has too many samples.
    """
    families: list[Metric] = []
    left = _MOST_SAMPLES
    for family in text_string_to_metric_families(page):
        left -= len(family.samples)
        if left < 0:
            raise ValueError(f"TorchServe's metrics have more than {_MOST_SAMPLES} samples")
        name = _our_name(family.name)
        fresh = Metric(name, family.documentation or "TorchServe's own.", family.type)
        fresh.samples = [
            Sample(name + sample.name.removeprefix(family.name), sample.labels, sample.value)
            for sample in family.samples
        ]
        families.append(fresh)
    return families


def _our_name(name: str) -> str:
    """Our prefix in the place of theirs, and camel case as snake case: ``CPUUtilization`` is ``cpu_utilization``."""
    name = name.removeprefix("ts_").removeprefix("Driftwheel")
    if name != name.lower():
        name = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return PREFIX + name
