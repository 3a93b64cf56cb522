"""Open-loop load: calls begin at the moments of a Poisson process, whether or not earlier ones were answered.

Latency counts from the moment that a call was due, not from when it was sent, so a server (or this generator) that falls
behind cannot hide it: there is no coordinated omission. h2load's ``--rps`` sends in ticks of 10 ms and counts from the
sending, which is why it is not used here.
"""

import ctypes
import gc
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.tools.http2 import Http2Connection
from benchmarks.tools.messages import FRAME, Call

CONNECTIONS = 4

_LAST_ANSWERS_S = 10.0
"""How long to wait, after the last call was sent, for answers."""

_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """What one run showed."""

    due: int
    """Calls that were to be made."""
    failed: int
    """Of those: answered with an error, or not at all."""
    due_per_s: float
    answered_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    late_p99_ms: float
    """How late the generator itself was; a part of the latencies above."""
    generator_share: float
    """Of one core."""
    server_cpu_us: float
    """Processor time of the server for each answered call."""


def open_loop(
    target: str,
    call: Call,
    *,
    per_s: float,
    seconds: float,
    cpu_seconds: Callable[[], float],
    seed: int = 0,
) -> OpenLoop:
    """Load one server with one call, so many times a second on average.

    Args:
        seed: The same one gives the same moments.
        cpu_seconds: The server's processor time so far.
    """
    due = np.cumsum(np.random.default_rng(seed).exponential(1.0 / per_s, max(1, round(per_s * seconds))))
    host, _, port = target.rpartition(":")
    connections = [Http2Connection(host, int(port), call) for _ in range(CONNECTIONS)]
    _precise_timers()
    gc.collect()
    gc.disable()
    try:
        server_s, own_s = cpu_seconds(), time.process_time()
        latencies, late, failed, took_s = _drive(connections, due)
        server_s, own_s = cpu_seconds() - server_s, time.process_time() - own_s
    finally:
        gc.enable()
        for connection in connections:
            connection.close()
    # A call without an answer has waited for ever.
    waits = np.array(latencies + [np.inf] * failed)
    quantiles = np.quantile(waits, (0.5, 0.99, 0.999), method="higher") * 1000
    return OpenLoop(
        due=len(due),
        failed=failed,
        due_per_s=len(due) / float(due[-1]),
        answered_per_s=len(latencies) / took_s,
        p50_ms=float(quantiles[0]),
        p99_ms=float(quantiles[1]),
        p999_ms=float(quantiles[2]),
        late_p99_ms=float(np.quantile(late, 0.99)) * 1000,
        generator_share=own_s / took_s,
        server_cpu_us=server_s / max(1, len(latencies)) * 1e6,
    )


def _drive(connections: list[Http2Connection], offsets: np.ndarray) -> tuple[list[float], list[float], int, float]:
    """Make all calls; latencies and delays of sending in seconds, failures, and how long it took."""
    latencies: list[float] = []
    late: list[float] = []
    failed = position = 0
    by_socket = {connection.socket: connection for connection in connections}
    sockets = list(by_socket)
    started = time.perf_counter() + 0.05
    moments: list[float] = (offsets + started).tolist()
    give_up = moments[-1] + _LAST_ANSWERS_S
    total = len(moments)
    while len(latencies) + failed < total:
        now = time.perf_counter()
        if now > give_up:
            break
        while position < total and moments[position] <= now:
            connections[position % CONNECTIONS].start(moments[position])
            late.append(now - moments[position])
            position += 1
        blocked = [connection.socket for connection in connections if connection.out and connection.flush()]
        wait_s = (moments[position] if position < total else give_up) - time.perf_counter()
        readable, _, _ = select.select(sockets, blocked, (), max(0.0, wait_s))
        for ready in readable:
            ended = by_socket[ready].receive()
            now = time.perf_counter()
            for due, came in ended:
                if came > FRAME.size:  # gRPC's errors are HTTP 200 with an empty body
                    latencies.append(now - due)
                else:
                    failed += 1
    unanswered = total - len(latencies) - failed
    return latencies, late, failed + unanswered, time.perf_counter() - started


def _precise_timers() -> None:
    """Ask Linux to wake this thread when it is due, not up to 50 us later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000)
