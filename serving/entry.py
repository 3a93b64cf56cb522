"""What the front door loads: ``serving.entry:app``, with the settings that the supervisor resolved."""

import sys
from importlib.abc import MetaPathFinder


class _Without(MetaPathFinder):
    """Some libraries are imported wherever they are installed, for things that the server does not do: Arrow looks for pandas
    as soon as it meets an array of numpy's, structlog for rich. That is half a second of every start and 35 MB of every worker.
    Where they are not installed, both do without.
    """

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        del path, target
        if fullname in ("pandas", "rich"):
            raise ModuleNotFoundError(f"the server does without {fullname}", name=fullname)


sys.meta_path.insert(0, _Without())  # the process is the server's alone

from driftwheel.log import configure_logging  # noqa: E402 (what it imports looks for rich)
from driftwheel.settings import load_settings  # noqa: E402
from serving.app import Application  # noqa: E402

settings = load_settings()
configure_logging(settings.log_format, settings.log_level)
app = Application(settings)
