"""Where the microseconds of one request go: each stage by itself, the whole call in process, and the live server around it.

Run with ``python -m benchmarks.budget``. A stage is timed by calling the function that the server calls, on what it is
called with. What the parts do not explain is named as such, not spread over them.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.table import Table

from benchmarks.rivals.base import Rival, Workplace
from benchmarks.rivals.driftwheel import Driftwheel
from benchmarks.rivals.echo import Echo
from benchmarks.rivals.echo_app import app as echo
from benchmarks.rivals.entrants import prepare
from benchmarks.tools.h2load import closed_loop, require_h2load
from benchmarks.tools.messages import Call, infer_call
from benchmarks.tools.processes import cpu_seconds
from benchmarks.tools.report import add_results_option, console, write_json
from driftwheel.contracts import Arm
from driftwheel.log import configure_logging
from driftwheel.preprocessing import encode
from driftwheel.rollout import serve_stable, start_candidate
from driftwheel.settings import load_settings
from serving._proto import open_inference_pb2 as pb
from serving.app import Application
from serving.codec import joined
from serving.recording import Running
from serving.service import Answer, InferCall
from serving.transports.framing import unframed
from serving.transports.grpc_calls import PROTOCOL, parsed
from serving.transports.oip_forms import KnownForms
from serving.transports.oip_grpc import decode_inputs, infer_response

CASES = {"1 pair": 1, "1000 pairs": 1000}
TOGETHER = 64
"""Calls under way at once, as in the load benchmark."""

HANDED_OVER = 128
"""Requests that are recorded before the log writes them and gives their buffers back: a live server's loop goes on recording
into others that have been used before, and a loop that never lets the log write would only time new memory."""

BATCH = 16
"""Requests that share a run, about as many as in a turn of the live server's loop."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One line of the table."""

    name: str
    us: float
    """Microseconds for each request."""
    part: bool = True
    """Whether it is a part of the call, and adds up with the others."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4, help="of live load for each case (default: 4)")
    parser.add_argument("--no-live", action="store_true", help="in process only")
    add_results_option(parser)
    options = parser.parse_args()
    configure_logging("console", "error")
    with tempfile.TemporaryDirectory(prefix="budget-") as folder:
        place = prepare(Path(folder))
        table = {case: list(_in_process(place, rows)) for case, rows in CASES.items()}
        if not options.no_live:
            require_h2load()
            for rival in (Driftwheel("live server"), Echo()):
                for case, cost in _live(rival, place, options.seconds).items():
                    table[case].append(Stage(f"{rival.name}: CPU of all its processes", cost, part=False))
    show(table)
    results = {case: [asdict(stage) for stage in stages] for case, stages in table.items()}
    path = write_json(options.results, "budget", {"options": vars(options), "stages": results})
    console().print(f"written: {path}")


def _in_process(place: Workplace, rows: int) -> Iterator[Stage]:
    """The stages of one call, then the whole."""
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    settings = load_settings(home=folder, models_folder=place.models, log_level="error")
    by = {"by": "benchmark", "now": "2026-01-01T00:00:00Z"}
    serve_stable(settings.rollouts, "mf", 1, by=by["by"], now=by["now"])
    start_candidate(settings.rollouts, "mf", 2, steps=(0.5, 1.0), by=by["by"], now=by["now"])
    loop = uvloop.new_event_loop()  # as the front door takes
    app: Any = Application(settings)  # its parts are private to everybody but this benchmark
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    lifespan = loop.create_task(app({"type": "lifespan"}, told.get, said.put))
    told.put_nowait({"type": "lifespan.startup"})
    loop.run_until_complete(said.get())
    call = infer_call(rows)
    parts = list(_stages(loop, app, call, rows))
    events = Call(f"/echo/{len(call.message)}", call.message)
    parts.append(Stage("a task and ASGI events (as the echo has them)", _whole_call_us(loop, echo, events)))
    yield from parts
    whole = _whole_call_us(loop, app, call)
    yield Stage("the rest of the call: awaits, futures", whole - sum(one.us for one in parts if one.part))
    yield Stage(f"the whole call in process, {TOGETHER} at once", whole, part=False)
    yield Stage("later, off the call: count, Arrow, disk", _later_us(loop, app, call), part=False)
    told.put_nowait({"type": "lifespan.shutdown"})
    loop.run_until_complete(lifespan)
    loop.close()


def _stages(loop: asyncio.AbstractEventLoop, app: Any, call: Call, rows: int) -> Iterator[Stage]:
    service, recorder = app._service, app._recorder  # noqa: SLF001
    loaded = service.repository.model("mf").stable
    message, request = call.message, pb.ModelInferRequest.FromString(call.message)
    columns, _ = decode_inputs(request, loaded)
    forms = KnownForms()
    forms.learn(message, request, loaded.signature, rows)
    known = forms.match(message)
    assert known is not None  # noqa: S101 (else the request is not one that clients repeat)
    form, cut = known
    decode = form.decoder(cut, lambda loaded: decode_inputs(request, loaded))
    infer = InferCall(form.model, decode, PROTOCOL, form.version)
    tensors = {spec.name: joined(spec, [columns[spec.name]]) for spec in loaded.signature.inputs}
    feed = encode(loaded.signature, loaded.vocabularies, tensors)
    outputs = loaded.backend.run(feed)
    running = Running(loaded, Arm.STABLE, PROTOCOL, "infer", time.monotonic())
    answer = Answer(loaded, running.arm, "mf.1.0123456789ab", outputs, rows, 0.0, 0.0)

    def record() -> None:
        recorder.answered(running, columns, outputs, rows)

    def write() -> None:
        loop.run_until_complete(app._log.flush())  # noqa: SLF001

    yield Stage("cut the frame", each_us(lambda: unframed(call.body, {}, 2**24)))
    yield Stage("know the message's form, cut out its tensors", each_us(lambda: forms.match(message)))
    yield Stage("resolve the version, split, check the signature", each_us(lambda: service._resolve(infer, 0.0)))  # noqa: SLF001
    scorer: Any = loaded.batcher._run  # noqa: SLF001
    jobs = [(columns, rows)] * BATCH
    yield Stage(f"ids to indices, run, check, cut apart ({BATCH} together)", each_us(lambda: scorer(jobs)) / BATCH)
    yield Stage("record (metrics and log, to be written later)", each_us(record, after=write, most=HANDED_OVER))
    yield Stage("build the answer", each_us(lambda: infer_response(answer)))
    parse = each_us(lambda: decode_inputs(parsed(pb.ModelInferRequest, message), loaded))
    yield Stage("instead of its form, where that is new: parse and decode", parse, part=False)
    yield Stage("instead of a shared run: one alone", each_us(lambda: scorer(jobs[:1])), part=False)
    indices = each_us(lambda: encode(loaded.signature, loaded.vocabularies, tensors))
    yield Stage("of that: ids to indices", indices, part=False)
    yield Stage("of that: the graph", each_us(lambda: loaded.backend.run(feed)), part=False)


def each_us(
    function: Callable[[], object], *, after: Callable[[], object] | None = None, most: int = sys.maxsize
) -> float:
    """Microseconds of one call: the median of several loops of at least 10 ms, or of ``most`` calls. ``after`` is called
    between loops, untimed.
    """
    number, took = 1, 0.0
    while took < 0.01 and number < most:
        number *= 2
        took = _loop_s(function, number)
    times: list[float] = []
    for _ in range(9):
        if after is not None:
            after()
        times.append(_loop_s(function, number) / number)
    return statistics.median(times) * 1e6


def _loop_s(function: Callable[[], object], number: int) -> float:
    started = time.thread_time()  # of the processor: what else the machine does is not ours
    for _ in range(number):
        function()
    return time.thread_time() - started


def _whole_call_us(loop: asyncio.AbstractEventLoop, app: Any, call: Call) -> float:
    """Processor time of a call through the ASGI application, many at once."""
    loop.run_until_complete(_calls(app, call, TOGETHER))
    times: list[float] = []
    for _ in range(9):
        count = TOGETHER * 8
        started = time.thread_time()
        for _ in range(8):
            loop.run_until_complete(_calls(app, call, TOGETHER))
        times.append((time.thread_time() - started) / count * 1e6)
    return statistics.median(times)


async def _calls(app: Any, call: Call, count: int) -> None:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/grpc"), (b"te", b"trailers")],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": call.body, "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        del event

    await asyncio.gather(*(app(scope, receive, send) for _ in range(count)))


def _later_us(loop: asyncio.AbstractEventLoop, app: Any, call: Call) -> float:
    """Processor time, on any thread, that the flush of recorded requests takes for each of them."""
    count = TOGETHER * 32
    times: list[float] = []
    for _ in range(3):
        loop.run_until_complete(app._log.flush())  # noqa: SLF001
        for _ in range(32):
            loop.run_until_complete(_calls(app, call, TOGETHER))
        started = time.process_time()
        loop.run_until_complete(app._log.flush())  # noqa: SLF001
        times.append((time.process_time() - started) / count * 1e6)
    return statistics.median(times)


def _live(rival: Rival, place: Workplace, seconds: float) -> dict[str, float]:
    """Processor time for each request of a real server under a closed loop, for each case."""
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    try:
        rival.start(Workplace(folder, place.models, place.bundle))
        costs: dict[str, float] = {}
        for case, rows in CASES.items():
            for length in (1.0, seconds):
                result = closed_loop(
                    rival.target,
                    rival.call(rows),
                    seconds=length,
                    in_flight=TOGETHER,
                    folder=folder,
                    cpu_seconds=lambda: cpu_seconds(rival.pids()),
                )
            costs[case] = result.server_cpu_us
        return costs
    finally:
        rival.stop()


def show(table: dict[str, list[Stage]]) -> None:
    """Stages by case; those that are no part of the call stand below its sum."""
    printed = Table("stage", title="Microseconds of one request")
    for case in table:
        printed.add_column(case, justify="right")
    for parts in (True, False):
        names = [stage.name for stage in next(iter(table.values())) if stage.part is parts]
        for name in names:
            found = [next(stage.us for stage in stages if stage.name == name) for stages in table.values()]
            printed.add_row(name, *(f"{us:,.1f}" for us in found))
        printed.add_section()
    console().print(printed)


if __name__ == "__main__":
    main()
