"""Imports of libraries that a process does without, though they are installed."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder


class Without(MetaPathFinder):
    """Has nothing of these names found. What looks for them if only they are there goes on as where they are not."""

    def __init__(self, *names: str) -> None:
        self._names = set(names)

    def allow(self, name: str) -> None:
        """Have it found again."""
        self._names.discard(name)

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Refuse ``fullname`` if it is one of them; the next finder looks for any other."""
        del path, target
        if fullname in self._names:
            raise ModuleNotFoundError(f"this process does without {fullname}", name=fullname)


@contextmanager
def without(*names: str) -> Generator[None]:
    """Import something while these are not to be found."""
    finder = Without(*names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
