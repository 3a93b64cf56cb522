"""A home whose TorchServe is started as ``driftwheel torchserve up`` does it."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from driftwheel.bundle import Bundle
from driftwheel.settings import Settings, load_settings
from driftwheel.wheel.torchserve import archived_version
from serving.torchserve import address as addresses
from serving.torchserve import lifecycle
from serving.torchserve.address import TorchServeAddress, inference_token, management_token
from serving.torchserve.configuration import ArchivedVersion
from tests.bundles import make_churn_bundle, make_rating_bundle

BOTH = (("mf", 1), ("churn", 1))


class Home:
    """A home, and what its TorchServe is to serve."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = load_settings(home=folder)
        self.bundles: dict[tuple[str, int], Bundle] = {}
        for bundle in (
            make_rating_bundle(self.settings.models, 1),
            make_rating_bundle(self.settings.models, 2, shift=0.25),
            make_churn_bundle(self.settings.models, 1),
        ):
            self.bundles[bundle.name, bundle.version] = bundle

    def archived(self, name: str, version: int) -> ArchivedVersion:
        return archived_version(self.settings.models, name, version)

    def up(self, *versions: tuple[str, int], **sections: object) -> lifecycle.Change:
        settings = load_settings(home=self.settings.home, **sections)
        return lifecycle.up(settings, [self.archived(*one) for one in versions], lambda _ready, _of: None)

    @property
    def address(self) -> TorchServeAddress:
        found = addresses.read(self.settings.torchserve_folder)
        assert found is not None
        return found

    @property
    def run(self) -> Path:
        return Path(self.address.key_file or "").parent

    def manage(self, method: str, path: str, key: str | None = "management") -> httpx.Response:
        return self.call(method, self.address.management + path, key)

    def call(self, method: str, url: str, key: str | None) -> httpx.Response:
        tokens = {"management": management_token, "inference": inference_token}
        token = tokens[key](self.address) if key in tokens else key
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.request(method, url, headers=headers, timeout=30)


def wait_for(happened: Callable[[], object], timeout_s: float = 60.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def family(pid: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[3] == str(pid) and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)
