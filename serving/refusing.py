"""Tell the judge which candidate could not be loaded here."""

import asyncio
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import structlog

from driftwheel.errors import BundleError, DriftwheelError, ModelFaultError
from driftwheel.refusals import drop_refusal, write_refusal
from driftwheel.rollout import Rollout

_log = structlog.get_logger()


async def tell_judge(executor: Executor, refusals: Path, rollout: Rollout, refused: str | None) -> None:
    """Write down, on a thread, why the candidate was refused; None: that it was not. A folder that cannot be written keeps no
    server from answering.
    """
    tell = partial(write_refusal, refusals, rollout, refused) if refused else partial(drop_refusal, refusals, rollout)
    try:
        await asyncio.get_running_loop().run_in_executor(executor, tell)
    except OSError as error:
        _log.warning("refusal.untold", model=rollout.model, folder=str(refusals), reason=str(error))


def is_its_own(error: Exception) -> bool:
    """Whether a failure to load lies with the version, and not with the machine or with what this server can reach."""
    if isinstance(error, DriftwheelError):
        return isinstance(error, BundleError | ModelFaultError)
    return not isinstance(error, OSError | MemoryError | ImportError)
