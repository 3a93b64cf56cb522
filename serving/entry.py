"""What the front door loads: ``serving.entry:app``, with the settings that the supervisor resolved."""

import sys
from typing import Any

from driftwheel.log import configure_logging
from driftwheel.settings import load_settings
from serving.app import Application

# Where pandas is installed, Arrow imports it as soon as it meets an array of numpy's: half a second of every start and 30 MB of
# every worker, for nothing that is used here. None says that there is no such module; the process is the server's alone.
_modules: dict[str, Any] = sys.modules
_modules.setdefault("pandas", None)

settings = load_settings()
configure_logging(settings.log_format, settings.log_level)
app = Application(settings)
