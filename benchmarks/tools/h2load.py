"""Closed-loop load from h2load (Debian's nghttp2-client): so many calls in flight, each followed by the next."""

import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tools.messages import FRAME, Call
from benchmarks.tools.probing import probe

CONNECTIONS = 4
"""Over which the calls in flight are spread."""

_PROBES = 6
_PATIENCE_S = 30.0
"""For a probe. h2load ends with calls under way, and on a busy machine TorchServe has taken over 5 s for the next one."""

_DATA_BYTES = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """What one run showed."""

    requests: int
    """Calls that were answered."""
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    generator_cpu_us: float
    """What h2load itself spent on each call, in microseconds of processor time."""
    server_cpu_us: float
    """What the server spent on each call."""


def require_h2load() -> None:
    """End the program, with a hint, where h2load is missing."""
    if shutil.which("h2load") is None:
        sys.exit("the load comes from h2load: install Debian's nghttp2-client")


def closed_loop(
    target: str,
    call: Call,
    *,
    seconds: float,
    in_flight: int,
    folder: Path,
    cpu_seconds: Callable[[], float],
) -> ClosedLoop:
    """Load one server with one call.

    gRPC's errors are HTTP 200 with an empty body, and h2load counts them as success: so the bytes of the answers are compared
    with those of a good answer, taken before and after (ids in answers grow by a digit now and then).

    Args:
        cpu_seconds: The server's processor time so far.

    Raises:
        RuntimeError: Not every call was answered in full.
    """
    body, log = folder / "h2load.body", folder / "h2load.tsv"
    body.write_bytes(call.body)
    log.unlink(missing_ok=True)
    command = ["h2load", f"--clients={CONNECTIONS}", f"--max-concurrent-streams={max(1, in_flight // CONNECTIONS)}"]
    command += [f"--duration={round(seconds * 1000)}ms", f"--data={body}", f"--log-file={log}"]
    command += ["--header=content-type: application/grpc", "--header=te: trailers", f"http://{target}{call.path}"]
    sizes = _sizes(target, call)
    own_before, server_before = _children_cpu_seconds(), cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    own_s, server_s = _children_cpu_seconds() - own_before, cpu_seconds() - server_before
    if done.returncode != 0 or not log.exists() or not log.stat().st_size:
        raise RuntimeError(f"h2load ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    started_us, status, took_us = np.loadtxt(log, dtype=np.int64, ndmin=2).T[:3]
    _check(done.stdout, status, sizes + _sizes(target, call), in_flight)
    span_s = float((started_us + took_us).max() - started_us.min()) / 1e6
    return ClosedLoop(
        requests=len(took_us),
        requests_per_s=len(took_us) / span_s,
        p50_ms=float(np.quantile(took_us, 0.50)) / 1000,
        p99_ms=float(np.quantile(took_us, 0.99)) / 1000,
        generator_cpu_us=own_s / len(took_us) * 1e6,
        server_cpu_us=server_s / len(took_us) * 1e6,
    )


def _sizes(target: str, call: Call) -> list[int]:
    """How many bytes a good answer has, from each of the processes that share a port (each probe connects anew)."""
    return [FRAME.size + len(probe(target, call, timeout_s=_PATIENCE_S)) for _ in range(_PROBES)]


def _check(summary: str, status: np.ndarray, sizes: Sequence[int], in_flight: int) -> None:
    """Every call had status 200, and together they brought the bytes of so many good answers."""
    if (refused := int((status != 200).sum())) > 0:
        raise RuntimeError(f"{refused} of {len(status)} calls failed:\n{summary}")
    found = _DATA_BYTES.search(summary)
    came = int(found[1]) if found else 0
    # Those that were under way at the end have brought their bytes, or a part of them, without being counted.
    least, most = min(sizes), max(sizes)
    if not len(status) * least <= came <= (len(status) + in_flight) * most:
        raise RuntimeError(
            f"{len(status)} calls brought {came} bytes, {came / len(status):.1f} each; a good answer has {least} to "
            f"{most}: some of the answers were errors\n{summary}"
        )


def _children_cpu_seconds() -> float:
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime
