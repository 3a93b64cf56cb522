"""Measurements of TorchServe, which stops answering under load now and then: what one of them misses costs no other."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import CASES, Taken, measure
from benchmarks.rivals.base import FAULTS, WARM_UP_S, Rival, Workplace
from benchmarks.rivals.torchserve_ours import Chosen
from benchmarks.tools.h2load import closed_loop
from benchmarks.tools.report import console

_SLICE_S = 5.0
_STILL_RISING = 1.05
"""Times the best slice of load before: so much more means that Java goes on compiling."""
_LONGEST = 2.0
"""Times the warm-up asked for; then it is measured as quick as it is."""


@dataclass(frozen=True, slots=True)
class Missed:
    """A measurement that gave no numbers."""

    server: str
    case: str
    reason: str


class Runs:
    """Measures servers one after another, and keeps a list of what it could not measure.

    Args:
        seconds: Of each case.
        in_flight: Calls under way at once.
    """

    def __init__(self, *, seconds: float, in_flight: int) -> None:
        self.missed: list[Missed] = []
        self._seconds = seconds
        self._in_flight = in_flight

    def of(
        self, rival: Rival, place: Workplace, warm_up_s: float, cases: Sequence[str] = tuple(CASES)
    ) -> Iterator[Taken]:
        """Start a server, measure it, and stop it. Where it stops answering, this case is left out, and the server started anew
        for the next.

        Args:
            warm_up_s: Of load before the first case, and after a restart; longer as long as the rate still rises.
        """
        console().print(f"  {rival.name} …", style="dim")
        cold = True
        try:
            for case in cases:
                try:
                    if cold:
                        rival.start(place)
                        self._warm_up(rival, case, place, warm_up_s)
                    one = self._measured(rival, case, place, min(warm_up_s, WARM_UP_S))
                except FAULTS as error:
                    self.miss(rival.name, case, error)
                    self._end(rival, hung=True)
                    cold = True
                else:
                    cold = False
                    yield one
        finally:
            self._end(rival)

    def miss(self, server: str, case: str, error: Exception) -> None:
        """Note and say what could not be measured, and why."""
        said = str(error).strip().splitlines() or [repr(error)]
        self.missed.append(Missed(server, case, " … ".join(dict.fromkeys((said[0][:300], said[-1][:300])))))
        console().print(f"  left out: {server}, {case}: {self.missed[-1].reason}", style="yellow")

    def _measured(self, rival: Rival, case: str, place: Workplace, warm_up_s: float) -> Taken:
        return measure(rival, case, place, warm_up_s=warm_up_s, seconds=self._seconds, in_flight=self._in_flight)

    def _warm_up(self, rival: Rival, case: str, place: Workplace, least_s: float) -> None:
        """Load it for so long, and then until it gets no quicker."""
        best, spent_s = 0.0, 0.0
        while spent_s < _LONGEST * least_s:
            length_s = min(_SLICE_S, least_s)
            result = closed_loop(
                rival.target,
                rival.call(CASES[case]),
                seconds=length_s,
                in_flight=self._in_flight,
                folder=place.folder,
                cpu_seconds=lambda: 0.0,
            )
            spent_s += length_s
            if spent_s >= least_s and result.requests_per_s < _STILL_RISING * best:
                return
            best = max(best, result.requests_per_s)

    def _end(self, rival: Rival, *, hung: bool = False) -> None:
        try:
            if hung and isinstance(rival, Chosen):
                rival.restart()
            else:
                rival.stop()
        except FAULTS as error:
            self.miss(rival.name, "when it was stopped", error)


def own_folder(place: Workplace) -> Workplace:
    """A folder of its own for a server, beside the others'."""
    return Workplace(Path(tempfile.mkdtemp(dir=place.folder)), place.models, place.bundle)
