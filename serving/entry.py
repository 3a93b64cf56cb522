"""What the front door loads: ``serving.entry:app``, with the settings that the supervisor resolved."""

import sys

from serving.without import Without

# Arrow looks for pandas as soon as it meets an array of numpy's, structlog for rich, for things that the server does not do.
# That is half a second of every start and 35 MB of every worker.
sys.meta_path.insert(0, Without("pandas", "rich"))  # the process is the server's alone

from driftwheel.log import configure_logging  # noqa: E402 (what it imports looks for rich)
from driftwheel.settings import load_settings  # noqa: E402
from serving.app import Application  # noqa: E402

settings = load_settings()
configure_logging(settings.log_format, settings.log_level)
app = Application(settings)
