"""Names of models. Nothing heavy is imported here: whoever only starts and watches a server needs no more."""

import re

from driftwheel.errors import BundleError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def is_name(name: str) -> bool:
    """Whether a model may be called so."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """A model name that is safe in paths, labels and URLs.

    Raises:
        BundleError: It is not.
    """
    if not is_name(name):
        raise BundleError(f"model name {name!r} must be a letter, then up to 63 letters, digits, '_' or '-'")
    return name
