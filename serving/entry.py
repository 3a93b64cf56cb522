"""What the front door loads: ``serving.entry:app``, with the settings that the supervisor resolved."""

import sys
from importlib.abc import MetaPathFinder

from driftwheel.log import configure_logging
from driftwheel.settings import load_settings
from serving.app import Application


class _WithoutPandas(MetaPathFinder):
    """Where pandas is installed, Arrow imports it as soon as it meets an array of numpy's: half a second of every start and
    30 MB of every worker, for nothing that is used here. Where it is not, Arrow does without.
    """

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        del path, target
        if fullname == "pandas":
            raise ModuleNotFoundError("the server does without pandas", name=fullname)


sys.meta_path.insert(0, _WithoutPandas())  # the process is the server's alone
settings = load_settings()
configure_logging(settings.log_format, settings.log_level)
app = Application(settings)
