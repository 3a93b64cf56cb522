"""The store between the homes of a fleet: a folder or an object store, by names."""

import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from driftwheel.errors import ConfigurationError
from driftwheel.files import replaced, write_atomically

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class Store:
    """A folder or an object store.

    Args:
        url: A path, ``s3://bucket/prefix``, ``gs://bucket/prefix``, or whatever else fsspec knows.

    Raises:
        ConfigurationError: The URL's scheme is unknown, or needs a library that is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            from fsspec.core import url_to_fs

            # Never from fsspec's memory of what was there: other hosts write, too.
            self._files, root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            extra = _EXTRAS.get(url.partition("://")[0], "s3")
            raise ConfigurationError(
                f"the store {url} cannot be used: {error}", hint=f'pip install "driftwheel[{extra}]"'
            ) from None
        self._root = root.rstrip("/")

    def has(self, name: str) -> bool:
        return bool(self._files.exists(self._path(name)))

    def under(self, folder: str) -> list[str]:
        """Names relative to ``folder`` of all files under it, sorted; none where there is no such folder."""
        top = self._path(folder)
        return sorted(str(PurePosixPath(path).relative_to(top)) for path in self._files.find(top))

    def read(self, name: str) -> bytes:
        content: Any = self._files.cat_file(self._path(name))
        return bytes(content)

    def fetch(self, name: str, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        self._files.get_file(self._path(name), str(to))

    def put(self, path: Path, name: str) -> None:
        """Under its name at once: object stores do so by themselves, in folders a temporary name does it."""
        target = self._path(name)
        if "file" in self._files.protocol:
            with replaced(Path(target)) as temporary:
                shutil.copyfile(path, temporary)
        else:
            self._files.put_file(str(path), target)

    def write(self, name: str, content: bytes) -> None:
        """Likewise, what is no file yet."""
        target = self._path(name)
        if "file" in self._files.protocol:
            write_atomically(Path(target), content)
        else:
            self._files.pipe_file(target, content)

    def remove(self, name: str) -> None:
        """Gone already is as well."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
