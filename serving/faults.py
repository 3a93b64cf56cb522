"""What becomes of an exception that nobody foresaw."""

import structlog

from driftwheel.errors import ModelFaultError, RequestError
from serving.engine import LoadedVersion

_log = structlog.get_logger()


def fault_of(error: Exception, loaded: LoadedVersion) -> RequestError:
    """A version's failure as the caller and the canary judge see it: a crash of any kind counts against the version."""
    if isinstance(error, RequestError):
        return error
    _log.exception("model.crashed", model=loaded.name, version=loaded.version, exc_info=error)
    return ModelFaultError(f"{loaded.label} failed on this request; the server's log says why")
