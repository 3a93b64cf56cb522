"""All dashboards as JSON; ``python -m monitoring.dashboards.build`` writes them."""

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from driftwheel.files import write_atomically
from monitoring.dashboards import canary, capacity, drift, service, training

FOLDER = Path(__file__).with_name("json")


def dashboards() -> dict[str, str]:
    """The content of each file, by name."""
    pages = {"service": service, "canary": canary, "drift": drift, "training": training, "capacity": capacity}
    encode = JSONEncoder(sort_keys=True, indent=2).encode
    return {f"{name}.json": encode(module.dashboard().build()) + "\n" for name, module in pages.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for file, content in dashboards().items():
        write_atomically(folder / file, content.encode())
