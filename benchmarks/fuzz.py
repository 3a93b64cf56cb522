"""Minutes of requests that nobody sends on purpose, at the whole application: none may be answered with a fault of its own.

Run with ``python -m benchmarks.fuzz --minutes 10``: gRPC and HTTP, each in a process. Requests are built from valid ones and
damaged in their fields, frames, JSON, encodings and headers. With atheris (the ``fuzz`` extra) coverage of our code leads
the choice of damage; without it, chance does. Exit code 1 where something was found; it is written down, and
``--repeat FILE`` shows it again.
"""

import argparse
import importlib
import importlib.util
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Self

from rich.table import Table

from benchmarks.tools.processes import memory, tree
from benchmarks.tools.report import add_results_option, console, write_json

if TYPE_CHECKING:
    from tests.fuzz.harness import InProcess
    from tests.fuzz.wire import Wire

TARGETS = ("grpc", "http")
MOST_MEMORY_MIB = 1024
LONGEST_S = 10
"""That one request may take."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one process came to."""

    target: str
    requests: int
    coverage: int
    """Edges of our code that were reached; 0 without atheris."""
    rss_first_mib: float
    """The median of the first quarter of the time."""
    rss_last_mib: float
    code: int
    """0 where nothing was found."""
    found: list[str]
    """Files that repeat what was found."""


def main() -> None:
    """Fuzz all targets at once, and print; or be one of the processes that do."""
    options = _options()
    if options.repeat:
        _repeat(options)
    elif options.child:
        _child(options)
    else:
        sys.exit(_lead(options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of each target; they run side by side (default: 10)")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--corpus", type=Path, help="folder of inputs to begin with and to add to (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of chance (default: 0: another one each time)")
    parser.add_argument("--repeat", type=Path, help="send what an earlier run found, and show it (needs --target)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    add_results_option(parser)
    options = parser.parse_args()
    if options.repeat and not options.target:
        parser.error("--repeat needs --target")
    return options


# ------------------------------------------------------------------------------------------------------------ one process


def _load(target: str, folder: Path) -> "tuple[InProcess, Callable[[Random], Wire]]":
    from tests.fuzz.grpc_requests import grpc_request
    from tests.fuzz.harness import InProcess, small_home
    from tests.fuzz.http_requests import http_request

    return InProcess(small_home(folder)), grpc_request if target == "grpc" else http_request


class BytesRandom(Random):
    """Choices that follow from given bytes, so that a fuzzer which changes a byte changes a choice; zeros at their end."""

    def __new__(cls, data: bytes) -> Self:
        del data
        return super().__new__(cls)

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._position = 0

    def getrandbits(self, k: int) -> int:
        """The next bits, in whole bytes."""
        count = (k + 7) // 8
        taken = self._data[self._position : self._position + count].ljust(count, b"\0")
        self._position += count
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """The next two bytes as a share of one."""
        return self.getrandbits(16) / 65536


def _child(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        if importlib.util.find_spec("atheris"):
            _with_coverage(options, Path(folder))
        else:
            _by_chance(options, Path(folder))


def _with_coverage(options: argparse.Namespace, folder: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["serving", "driftwheel"]):
        application, build = _load(options.target, folder)
    corpus = options.corpus or folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [
        f"-max_total_time={round(options.minutes * 60)}",
        f"-rss_limit_mb={MOST_MEMORY_MIB}",
        f"-timeout={LONGEST_S}",
    ]
    artifacts = [f"-artifact_prefix={options.results}/fuzz-{options.target}-", "-print_final_stats=1"]
    lengths = ["-max_len=2048", "-len_control=0", f"-seed={options.seed}"]
    atheris.Setup(
        [sys.argv[0], *limits, *artifacts, *lengths, str(corpus)], lambda data: _send(application, build, data)
    )
    atheris.Fuzz()


def _by_chance(options: argparse.Namespace, folder: Path) -> None:
    application, build = _load(options.target, folder)
    chance = Random(options.seed or None)
    end = time.monotonic() + options.minutes * 60
    requests = 0
    while time.monotonic() < end:
        data = chance.randbytes(512)
        try:
            _send(application, build, data)
        except Exception:
            path = options.results / f"fuzz-{options.target}-crash-{requests}"
            path.write_bytes(data)
            raise
        requests += 1
    print(f"stat::number_of_executed_units: {requests}", file=sys.stderr)
    application.close()


def _send(application: "InProcess", build: "Callable[[Random], Wire]", data: bytes) -> None:
    wire = build(BytesRandom(data))
    try:
        application.ask(wire)
    except BaseException:
        print(f"this request: {wire}", file=sys.stderr)
        raise


def _repeat(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        application, build = _load(options.target, Path(folder))
        wire = build(BytesRandom(options.repeat.read_bytes()))
        print(f"request: {wire}")
        try:
            print(f"answer: {application.ask(wire)}")
        finally:
            application.close()


# --------------------------------------------------------------------------------------------------------- all processes


def _lead(options: argparse.Namespace) -> int:
    """Run the processes, look at their memory, and report; the exit code."""
    if not importlib.util.find_spec("atheris"):
        console().print("[yellow]atheris is not installed (pip install the fuzz extra): chance alone chooses[/]")
    options.results.mkdir(parents=True, exist_ok=True)
    targets = [options.target] if options.target else list(TARGETS)
    with tempfile.TemporaryDirectory(prefix="fuzz-logs-") as folder:
        logs = {target: Path(folder) / f"{target}.log" for target in targets}
        processes = {target: _start(target, logs[target], options) for target in targets}
        sizes = _watch(processes)
        outcomes = [
            _outcome(target, processes[target].returncode, logs[target], sizes[target], options) for target in targets
        ]
        for one in outcomes:
            if one.code:
                console().print(logs[one.target].read_text(errors="replace")[-4000:], style="red", markup=False)
    _show(outcomes)
    write_json(options.results, "fuzz", {"options": vars(options), "outcomes": [asdict(one) for one in outcomes]})
    return int(any(one.code for one in outcomes))


def _start(target: str, log: Path, options: argparse.Namespace) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.fuzz", "--child", "--target", target]
    command += ["--minutes", str(options.minutes), "--seed", str(options.seed), "--results", str(options.results)]
    if options.corpus:
        command += ["--corpus", str(options.corpus / target)]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def _watch(processes: "dict[str, subprocess.Popen[bytes]]") -> dict[str, list[float]]:
    """The memory of each process, every second, until the last one ends."""
    sizes: dict[str, list[float]] = {target: [] for target in processes}
    try:
        while any(process.poll() is None for process in processes.values()):
            time.sleep(1)
            for target, process in processes.items():
                if process.poll() is None:
                    sizes[target].append(memory(tree(process.pid)).rss)
    finally:
        for process in processes.values():
            process.kill()
    return sizes


def _outcome(target: str, code: int, log: Path, sizes: list[float], options: argparse.Namespace) -> Outcome:
    text = log.read_text(errors="replace")
    quarter = max(1, len(sizes) // 4)
    return Outcome(
        target=target,
        requests=_last(text, r"number_of_executed_units: (\d+)"),
        coverage=_last(text, r"cov: (\d+)"),
        rss_first_mib=statistics.median(sizes[:quarter] or [0.0]),
        rss_last_mib=statistics.median(sizes[-quarter:] or [0.0]),
        code=code,
        found=[str(path) for path in sorted(options.results.glob(f"fuzz-{target}-*"))] if code else [],
    )


def _last(text: str, pattern: str) -> int:
    found: list[Any] = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _show(outcomes: list[Outcome]) -> None:
    table = Table(
        "target", "requests", "edges reached", "RSS first, last quarter", "found", title="Fuzzing the application"
    )
    for one in outcomes:
        found = (
            f"[red]exit code {one.code}: {', '.join(one.found) or 'see above'}[/]" if one.code else "[green]nothing[/]"
        )
        sizes = f"{one.rss_first_mib:.0f}, {one.rss_last_mib:.0f} MiB"
        table.add_row(one.target, f"{one.requests:,}", f"{one.coverage:,}", sizes, found)
    console().print(table)


if __name__ == "__main__":
    main()
