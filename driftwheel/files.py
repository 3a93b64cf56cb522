"""Files that are either whole or absent, and locks that a killed process lets go of."""

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from driftwheel.errors import BusyError

TEMPORARY_PREFIX = ".tmp-"
"""What the name of every half-written file or folder begins with; readers pass over such names."""


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replaced(path: Path) -> Generator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well, flush it and rename it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, never a part."""
    with replaced(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def published_folder(folder: Path) -> Generator[Path]:
    """Yield an empty temporary folder beside ``folder``; when the block ends well, flush all in it and rename it.

    A folder that is already there under that name is left alone and wins: what is published is immutable.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())
        sync_folder(temporary)
        for inner in {file.parent for file in temporary.rglob("*")}:
            sync_folder(inner)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise  # otherwise another process was first
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path, *, older_than_s: float, now_s: float) -> list[Path]:
    """Delete temporary files and folders that a killed process left directly in ``folder``.

    Args:
        older_than_s: Age in seconds below which an entry may still be somebody's work in progress.
        now_s: The present, in seconds since the epoch.
    """
    removed: list[Path] = []
    for entry in folder.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            if now_s - entry.stat().st_mtime < older_than_s:
                continue
        except FileNotFoundError:
            continue  # its owner was quicker
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        removed.append(entry)
    return removed


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive_lock(path: Path, *, purpose: str) -> Generator[None]:
    """Hold ``path`` as a lock that the kernel releases when this process ends, however it ends.

    Raises:
        BusyError: Another process holds it; the message gives that process's id.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            _lock_soon(file)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise BusyError(
                f"{purpose} is already going on in process {holder} (lock file {path})",
                hint=f"wait for process {holder} to finish, or stop it",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock_soon(file: TextIO) -> None:
    """Lock a file, giving somebody who only asks (``is_locked``) a moment to be done."""
    for pause_s in (0.01, 0.05):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause_s)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(path: Path) -> bool:
    """Whether a process holds ``path`` with ``exclusive_lock``; asking hinders nobody who wants it at the same time."""
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def shared_lock(path: Path) -> AbstractContextManager[None]:
    """Hold ``path`` together with others who share it, waiting while a process holds it alone."""
    return _waited_for(path, fcntl.LOCK_SH)


def waiting_lock(path: Path) -> AbstractContextManager[None]:
    """Hold ``path`` as a lock for a moment, waiting while another process holds it."""
    return _waited_for(path, fcntl.LOCK_EX)


@contextmanager
def _waited_for(path: Path, how: int) -> Generator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, how)
        yield
