"""A container of a manifest as a local process: its command, environment, mounts, user and read-only root, and its probes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.k8s.manifests import Object

BIN = Path(sys.executable).parent
_NEEDED = [Path(sys.base_prefix), Path(__file__).parents[2]]
"""What a container's process runs from: the interpreter, and this checkout with its environment."""
USER = 10001

_JAIL = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /mnt
for top in etc home root; do
  mkdir /mnt/upper-$top /mnt/work-$top
  mount -t overlay overlay -o lowerdir=/$top,upperdir=/mnt/upper-$top,workdir=/mnt/work-$top /$top
done
{kept}
{opened}
{mounts}
mount -o remount,bind,ro /etc
mount -o remount,bind,ro /home
mount -o remount,bind,ro /root
mount -o remount,bind,ro /mnt
mount -o remount,bind,ro /
exec setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""
"""The three folders are covered by copies of which the container's mounts can be made a part, and which its user may enter."""


def _shown_again(covered: str) -> list[str]:
    """Commands that put the interpreter and this checkout back, where they lie in a folder that a mount has covered."""
    lines = list[str]()
    for number, path in enumerate(_NEEDED):
        if path.is_relative_to(covered):
            lines.append(f"mkdir -p {path}; mount --bind /mnt/needed-{number} {path}")
    return lines


_TRIED = """
set -e
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
"""


def require_jail() -> None:
    """Skip where no mount namespace can be made."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("needs Debian's util-linux")
    made = subprocess.run(["unshare", "-m", "sh", "-c", _TRIED], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no mount namespace can be made here: {made.stderr.strip()}")


class Pod:
    """One container of a pod template, started at once.

    Args:
        volumes: What lies behind each volume of the template, by its name; they are given to the container's user.
        port: Stands for the container's port, which may be taken on this machine.
        secrets: Values of the variables that come from Secrets.
    """

    def __init__(
        self,
        template: Object,
        container: str,
        volumes: dict[str, Path],
        *,
        port: int,
        secrets: dict[str, str] | None = None,
    ) -> None:
        spec = template["spec"]
        (self.container,) = [
            one for one in [*spec.get("initContainers", []), *spec["containers"]] if one["name"] == container
        ]
        self.port = port
        self.grace_s: float = spec["terminationGracePeriodSeconds"]
        values = {one["name"]: one["value"] for one in self.container.get("env", [])} | (secrets or {})
        words = self.container.get("command", ["driftwheel"]) + self.container.get("args", [])
        for name, value in values.items():
            words = [word.replace(f"$({name})", value) for word in words]
        ports = [str(one["containerPort"]) for one in self.container.get("ports", [])]
        words = [str(port) if word in ports else word for word in words]
        environment = {"PATH": f"{BIN}:/usr/bin:/bin", "DRIFTWHEEL_SERVING__PORT": str(port), **values}
        self.process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", self._jail(volumes), "sh", *words],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _jail(self, volumes: dict[str, Path]) -> str:
        # The interpreter and this checkout may lie where only root may go: in /root, for one.
        needed = {parent for path in (Path(sys.base_prefix), BIN) for parent in path.parents}
        opened = [f"chmod a+x {path}" for path in sorted(needed) if path.parts[1:2] in (("home",), ("root",))]
        places = [(f"/mnt/needed-{number}", path) for number, path in enumerate(_NEEDED)]
        kept = "\n".join(f"mkdir {place}; mount --bind {path} {place}" for place, path in places)
        return _JAIL.format(kept=kept, opened="\n".join(opened), mounts=self._mounts(volumes), user=USER)

    def _mounts(self, volumes: dict[str, Path]) -> str:
        lines = list[str]()
        # What lies under /tmp must be mounted before /tmp is covered, and a folder before what lies in it.
        order = sorted(self.container["volumeMounts"], key=lambda one: (one["mountPath"] == "/tmp", one["mountPath"]))  # noqa: S108
        for mount in order:
            source = volumes[mount["name"]] / mount.get("subPath", "")
            subprocess.run(["chown", "-R", f"{USER}:{USER}", str(source)], check=True)
            path = mount["mountPath"]
            made = f"mkdir -p {path}" if source.is_dir() else f"mkdir -p {Path(path).parent}; touch {path}"
            lines.append(f"{made}; mount --bind {source} {path}")
            lines += _shown_again(path)
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {path}")
        return "\n".join(lines)

    def probe(self, name: str) -> bool:
        """Whether a probe of the manifest succeeds now."""
        probe: dict[str, Any] = self.container[f"{name}Probe"]
        if "exec" in probe:
            inside = ["nsenter", "-m", "-t", str(self.process.pid), "setpriv", "--reuid", str(USER), "--clear-groups"]
            command = [*inside, *probe["exec"]["command"]]
            return subprocess.run(command, env={"PATH": f"{BIN}:/usr/bin:/bin"}, capture_output=True).returncode == 0
        scheme = probe["httpGet"].get("scheme", "HTTP").lower()
        url = f"{scheme}://127.0.0.1:{self.port}{probe['httpGet']['path']}"
        try:  # the kubelet asks for no certificate that it knows
            answer = httpx.get(url, timeout=probe.get("timeoutSeconds", 1), verify=False)  # noqa: S501
        except httpx.TransportError:
            return False
        return 200 <= answer.status_code < 400

    def passes(self, name: str) -> bool:
        """Whether a probe succeeds before it has failed so often that the kubelet would act."""
        return any(self.probe(name) for _ in range(self.container[f"{name}Probe"].get("failureThreshold", 3)))

    def wait_until_ready(self, *, within_s: float = 120) -> None:
        give_up = time.monotonic() + within_s
        while not self.probe("readiness"):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.02)

    def terminate(self) -> None:
        """What the kubelet does to a pod that is deleted, once its ``preStop`` is over."""
        os.kill(self.process.pid, signal.SIGTERM)

    def pause_before_end_s(self) -> float:
        return float(self.container["lifecycle"]["preStop"]["sleep"]["seconds"])

    def ended_within(self, seconds: float) -> str:
        """Its standard error, once it has ended well."""
        _, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, errors
        return errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.communicate()
