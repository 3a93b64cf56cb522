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
from numpy.typing import NDArray

from benchmarks.tools.messages import Call
from benchmarks.tools.probing import probe

CONNECTIONS = 4
"""Over which the calls in flight are spread. HTTP/1.1 takes one for each: it answers one after the other."""

_PROBES = 6
_PATIENCE_S = 30.0
"""For a probe. h2load ends with calls under way, and on a busy machine TorchServe has taken over 5 s for the next one."""

_NO_STATUS = 0
"""What h2load notes over HTTP/1.1 where the status line has no words, as TorchServe's: only the bytes tell then."""

_STALLED_S = 1.0
"""Without an answer at the end of a run: a server that has stopped, whose rate until then says nothing."""

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

    REST is asked over HTTP/1.1 with connections that stay open, one for each call in flight.

    Args:
        cpu_seconds: The server's processor time so far.

    Raises:
        RuntimeError: Not every call was answered in full, or none at the end of the run.
    """
    body, log = folder / "h2load.body", folder / "h2load.tsv"
    body.write_bytes(call.body)
    log.unlink(missing_ok=True)
    command = ["h2load", *_flags(call, in_flight), f"--duration={round(seconds * 1000)}ms", f"--data={body}"]
    command += [f"--log-file={log}", f"http://{target}{call.path}"]
    sizes = _sizes(target, call)
    own_before, server_before = _children_cpu_seconds(), cpu_seconds()
    done = _run(command, timeout_s=seconds + 60)
    own_s, server_s = _children_cpu_seconds() - own_before, cpu_seconds() - server_before
    if done.returncode != 0 or not log.exists() or not log.stat().st_size:
        raise RuntimeError(f"h2load ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    started_us, status, took_us = np.loadtxt(log, dtype=np.int64, ndmin=2).T[:3]
    good = (200, _NO_STATUS) if call.rest else (200,)
    _check(done.stdout, np.isin(status, good), sizes + _sizes(target, call), in_flight)
    span_s = float((started_us + took_us).max() - started_us.min()) / 1e6
    if seconds - span_s > max(_STALLED_S, seconds / 4):
        raise RuntimeError(f"{target} stopped answering {span_s:.1f} s into {seconds:g} s of load")
    return ClosedLoop(
        requests=len(took_us),
        requests_per_s=len(took_us) / span_s,
        p50_ms=float(np.quantile(took_us, 0.50)) / 1000,
        p99_ms=float(np.quantile(took_us, 0.99)) / 1000,
        generator_cpu_us=own_s / len(took_us) * 1e6,
        server_cpu_us=server_s / len(took_us) * 1e6,
    )


def _flags(call: Call, in_flight: int) -> list[str]:
    if call.rest:
        return ["--h1", f"--clients={in_flight}", "--header=content-type: application/json"]
    streams = max(1, in_flight // CONNECTIONS)
    headers = ["--header=content-type: application/grpc", "--header=te: trailers"]
    return [f"--clients={CONNECTIONS}", f"--max-concurrent-streams={streams}", *headers]


def _run(command: Sequence[str], *, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"h2load had not ended after {timeout_s:g} s") from None


def _sizes(target: str, call: Call) -> list[int]:
    """How many bytes a good answer has, from each of the processes that share a port (each probe connects anew)."""
    return [call.answer_bytes(probe(target, call, timeout_s=_PATIENCE_S)) for _ in range(_PROBES)]


def _check(summary: str, good: NDArray[np.bool_], sizes: Sequence[int], in_flight: int) -> None:
    """Every call had a good status, and together they brought the bytes of so many good answers."""
    calls = len(good)
    if (refused := calls - int(good.sum())) > 0:
        raise RuntimeError(f"{refused} of {calls} calls failed:\n{summary}")
    found = _DATA_BYTES.search(summary)
    came = int(found[1]) if found else 0
    # Those that were under way at the end have brought their bytes, or a part of them, without being counted.
    least, most = min(sizes), max(sizes)
    if not calls * least <= came <= (calls + in_flight) * most:
        raise RuntimeError(
            f"{calls} calls brought {came} bytes, {came / calls:.1f} each; a good answer has {least} to "
            f"{most}: some of the answers were errors\n{summary}"
        )


def _children_cpu_seconds() -> float:
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime
