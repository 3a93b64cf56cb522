"""SIGTERM as a wish that all ranks grant between the same two steps, so that what they save fits together."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
import torch.distributed as dist

_ASK_EVERY_S = 0.25
"""How often the ranks ask each other, about: an answer costs a collective operation."""

_MOST_STEPS = 4096


class Stopped(Exception):  # noqa: N818 (nothing is wrong: it was asked for)
    """The job was told to stop, and its checkpoint holds all the work that was done."""


class StopRequest:
    """Whether somebody wants the job to stop. Any rank may be told; all ranks hear of it before the same step.

    The ranks ask each other about four times a second. After how many steps, they derive from the time that the slowest
    of them took since the last question, a number that all of them see alike.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.requested = False
        self._clock = clock
        self._asked = clock()
        self._interval = 1
        self._left = 1

    def agreed(self) -> bool:
        """Call it before each step, on every rank: True on all of them once any was told."""
        self._left -= 1
        if self._left:
            return False
        answer = torch.tensor([float(self.requested), self._clock() - self._asked], dtype=torch.double)
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        requested, elapsed_s = answer.tolist()
        wanted = self._interval * _ASK_EVERY_S / max(elapsed_s, 1e-6)
        self._interval = int(min(max(wanted, 1), 2 * self._interval, _MOST_STEPS))
        self._left, self._asked = self._interval, self._clock()
        return bool(requested)


@contextmanager
def stop_on_signals(grace_s: float) -> Generator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request, and into this process's end if that is not granted in ``grace_s``.

    A rank may be inside a collective operation that waits for a rank that is gone, where no Python code runs: so the
    kernel's word goes to a pipe, and a thread reads it there.
    """
    request, done = StopRequest(), threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        if not os.read(reader, 1):
            return  # closed: the work ended by itself
        request.requested = True
        if not done.wait(grace_s):
            print(f"not stopped {grace_s:g} s after the signal: ended here", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(128 + signal.SIGTERM)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    signals = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.signal(number, lambda *_: None) for number in signals]
    former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield request
    finally:
        done.set()
        signal.set_wakeup_fd(former)
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)
        os.close(writer)
        watcher.join()
        os.close(reader)
