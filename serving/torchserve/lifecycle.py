"""Brings a home's TorchServe to what is wanted, takes it down, and keeps to it while it runs.

Which versions TorchServe serves is fixed when it starts: its API for registering stays off. So a change is a new TorchServe,
which starts beside the old one. Once all its workers are ready the address names it, the old one is given a new key, and each
caller whose key is refused looks up where TorchServe is now. Calls in flight finish, and no call fails.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from driftwheel.errors import ConfigurationError, DriftwheelError, NotFoundError, UnauthenticatedError, UnavailableError
from driftwheel.files import exclusive_lock, is_locked
from driftwheel.serving_settings import TorchServeSettings
from driftwheel.settings import Settings
from serving.torchserve import address as addresses
from serving.torchserve.address import TorchServeAddress
from serving.torchserve.configuration import LOOPBACK, ArchivedVersion, Ports
from serving.torchserve.instance import Instance, Plan, instances, prepare
from serving.torchserve.management import Management
from serving.torchserve.ports import any_fixed, chosen_ports, wanted_ports
from serving.torchserve.process import ProcessIdentity

Change = Literal["started", "replaced", "unchanged"]
Tell = Callable[[int, int], None]
"""Told how many workers are ready, and of how many."""

_POLL_S = 0.2
_SETTLE_S = 10.0
"""How long a worker that is being restarted is waited for before its TorchServe is replaced."""
_HANDOVER_S = 1.0
"""How long the old TorchServe goes on refusing its old key before it is stopped. Callers ask five times a second."""


def plan_for(settings: TorchServeSettings, versions: Sequence[ArchivedVersion]) -> Plan:
    """What is to run, with this machine's Java and this environment's TorchServe.

    Raises:
        ConfigurationError: One of them is missing.
    """
    java = shutil.which(settings.java)
    if java is None:
        raise ConfigurationError(
            f"TorchServe needs Java, and there is no {settings.java!r} here",
            hint="install Debian's openjdk-17-jre-headless, or name the runtime in torchserve.java",
        )
    found = importlib.util.find_spec("ts")
    site = Path(found.origin).parent.parent if found is not None and found.origin else None
    if site is None or not (site / "ts/frontend/model-server.jar").is_file():
        raise ConfigurationError("TorchServe is not installed here", hint='pip install "driftwheel[torchserve]"')
    return Plan(settings, tuple(versions), java=java, python=sys.executable, site=site)


def up(settings: Settings, versions: Sequence[ArchivedVersion], tell: Tell, *, foreground: bool = False) -> Change:
    """Have a TorchServe run that serves these versions, and no others, as the settings say.

    Args:
        versions: The first of each model answers calls without a version.
        foreground: Whether it is to end with this process.

    Raises:
        AddressInUseError: A port that the settings fix is taken.
        BusyError: Another process is about to start or stop it.
        ConfigurationError: Java or TorchServe is missing; or it runs already, and is wanted in the foreground.
        DriftwheelError: It ended, or a version did not become ready; what was started is stopped, what ran goes on.
    """
    plan = plan_for(settings.torchserve, versions)
    with _alone(settings):
        old = _sweep(settings)
        if old is not None and foreground:
            raise ConfigurationError(
                f"TorchServe runs already, as process {old.identity.pid if old.identity else '?'}",
                hint="driftwheel torchserve down",
            )
        if old is not None and old.was_started_with(plan) and _settled(settings, old, plan):
            return "unchanged"
        beside = old
        if old is not None and any_fixed(wanted_ports(settings.torchserve)):
            _stop(settings, old)  # there is no room for two
            beside = None
        _replace(settings, plan, beside, tell, foreground=foreground)
        return "started" if old is None else "replaced"


def down(settings: Settings) -> bool:
    """Stop it: calls in flight finish, then the workers end.

    Returns:
        Whether one ran.

    Raises:
        BusyError: Another process is about to start or stop it.
    """
    if not settings.torchserve_folder.is_dir():
        return False
    with _alone(settings):
        running = _sweep(settings)
        if running is not None:
            _stop(settings, running)
        return running is not None


def stay(settings: Settings) -> None:
    """Wait for as long as this home's TorchServe runs, be it another one by then; a KeyboardInterrupt stops it.

    Raises:
        DriftwheelError: It ended by itself.
    """
    try:
        while _goes_on(settings):
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        while is_locked(_lock(settings)):  # another command replaces it at this moment
            time.sleep(_POLL_S)
        down(settings)


def _goes_on(settings: Settings) -> bool:
    """Whether it runs, or is being replaced; otherwise it was stopped."""
    address = addresses.read(settings.torchserve_folder)
    if address is not None and _instance(address).runs:
        return True
    if is_locked(_lock(settings)) or addresses.read(settings.torchserve_folder) != address:
        return True
    if address is None:
        return False
    raise DriftwheelError(f"TorchServe ended by itself; its last words:\n{_instance(address).last_words()}")


def running_instance(settings: Settings) -> tuple[TorchServeAddress, Instance] | None:
    """The TorchServe that takes this home's calls; None where none runs."""
    try:
        address = addresses.read(settings.torchserve_folder)
    except ValueError:  # whatever wrote it; what runs without an address is found by its folder
        return None
    if address is None or not _instance(address).runs:
        return None
    return address, _instance(address)


@contextmanager
def _alone(settings: Settings) -> Generator[None]:
    folder = settings.torchserve_folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with exclusive_lock(_lock(settings), purpose="starting or stopping TorchServe"):
        yield


def _lock(settings: Settings) -> Path:
    return settings.torchserve_folder / "lock"


def _runs(settings: Settings) -> Path:
    return settings.torchserve_folder / "runs"


def _instance(address: TorchServeAddress) -> Instance:
    if address.key_file is None:
        raise ConfigurationError(f"the TorchServe at {address.management} was not started by: driftwheel torchserve up")
    return Instance(Path(address.key_file).parent)


def _sweep(settings: Settings) -> Instance | None:
    """The TorchServe that takes calls. Any other is stopped: it was left by a command that was killed, or is dead and left
    workers.
    """
    running = running_instance(settings)
    for one in instances(_runs(settings)):
        if running is None or one.folder != running[1].folder:
            one.stop(settings.torchserve.stop_timeout_s)
    if running is None:
        addresses.remove(settings.torchserve_folder)
        return None
    return running[1]


def _settled(settings: Settings, instance: Instance, plan: Plan) -> bool:
    """Whether all workers of the running TorchServe are ready, or soon are."""
    running = running_instance(settings)
    if running is None:
        return False
    try:
        _await_ready(instance, plan, running[0], lambda _ready, _of: None, _SETTLE_S)
    except DriftwheelError:
        return False
    return True


def _replace(settings: Settings, plan: Plan, old: Instance | None, tell: Tell, *, foreground: bool) -> None:
    ports = chosen_ports(plan.settings)
    new = prepare(_runs(settings), plan, ports)
    try:
        identity = new.start(plan, os.environ, tie=foreground)
        address = _address(new, identity, plan, ports)
        _await_ready(new, plan, address, tell, plan.settings.start_timeout_s)
        before = running_instance(settings)
        addresses.write(settings.torchserve_folder, address)
    except BaseException:
        new.stop(plan.settings.stop_timeout_s)
        raise
    if old is not None and before is not None:
        _hand_over(before[0])
        old.stop(plan.settings.stop_timeout_s)
    _forget(settings, keep=new)


def _hand_over(address: TorchServeAddress) -> None:
    """Send the callers of the old TorchServe to the new one."""
    with contextlib.suppress(UnauthenticatedError, UnavailableError, NotFoundError):  # it is about to end in any case
        Management(address).renew_inference_key()
        time.sleep(_HANDOVER_S)


def _forget(settings: Settings, *, keep: Instance) -> None:
    for one in instances(_runs(settings)):
        if one.folder != keep.folder and not one.runs:
            shutil.rmtree(one.folder, ignore_errors=True)


def _stop(settings: Settings, instance: Instance) -> None:
    instance.stop(settings.torchserve.stop_timeout_s)
    addresses.remove(settings.torchserve_folder)


def _address(instance: Instance, identity: ProcessIdentity, plan: Plan, ports: Ports) -> TorchServeAddress:
    host = LOOPBACK if plan.settings.host == "0.0.0.0" else plan.settings.host  # noqa: S104 (the question is whether)
    models: dict[str, list[str]] = {}
    for one in plan.versions:
        models.setdefault(one.model, []).append(str(one.version))
    return TorchServeAddress(
        pid=identity.pid,
        started_ticks=identity.started_ticks,
        grpc=f"{host}:{ports.grpc}",
        http=f"http://{host}:{ports.http}",
        management=f"http://{LOOPBACK}:{ports.management}",
        metrics=f"http://{LOOPBACK}:{ports.metrics}",
        key_file=str(instance.key_file),
        models=models,
    )


def _await_ready(instance: Instance, plan: Plan, address: TorchServeAddress, tell: Tell, timeout_s: float) -> None:
    """Wait until all workers of all versions are ready.

    Raises:
        DriftwheelError: It ended, a version cannot be loaded, or it takes too long.
    """
    management, give_up = Management(address), time.monotonic() + timeout_s
    wanted = len(plan.versions) * plan.settings.workers_per_version
    while (ready := sum(_ready(instance, management, one) for one in plan.versions)) < wanted:
        tell(ready, wanted)
        if not instance.runs:
            raise DriftwheelError(f"TorchServe ended at start; its last words:\n{instance.last_words()}")
        if time.monotonic() > give_up:
            words = instance.last_words()
            raise DriftwheelError(
                f"{ready} of {wanted} workers are ready after {timeout_s:g} s; the last words of TorchServe:\n{words}"
            )
        time.sleep(_POLL_S)
    tell(ready, wanted)


def _ready(instance: Instance, management: Management, version: ArchivedVersion) -> int:
    try:
        described = management.describe(version.model, str(version.version))
    except (UnavailableError, UnauthenticatedError):  # before it listens, and before it has written its keys
        return 0
    except NotFoundError:
        words = instance.last_words()
        raise DriftwheelError(
            f"TorchServe refuses {version.archive}; its last words:\n{words}",
            hint=f"driftwheel export {version.model} {version.version} --format mar",
        ) from None
    if not described.ready and (reason := instance.why_not_loaded(version.model, version.version)) is not None:
        raise DriftwheelError(f"TorchServe cannot load {version.model} version {version.version}: {reason}")
    return described.ready
