"""What the front door loads: ``serving.entry:app``, with the settings that the supervisor resolved."""

from driftwheel.log import configure_logging
from driftwheel.settings import load_settings
from serving.app import Application

settings = load_settings()
configure_logging(settings.log_format, settings.log_level)
app = Application(settings)
