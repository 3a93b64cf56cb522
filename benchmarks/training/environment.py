"""The open libraries that ours are compared with, in a virtual environment of their own: they want other versions of
what ours want, and no user of Driftwheel needs them.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from driftwheel.files import waiting_lock, write_atomically

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

CACHE = Path(__file__).parents[2] / "build" / "libraries"
"""Where environments are kept; git passes over it, and ``make clean`` deletes it."""

_WHOLE = "installed"
"""The file that says that an environment is whole."""


def library_python(folder: Path = CACHE) -> Path:
    """The Python of an environment with what ``requirements.txt`` names, made the first time (minutes, and 2 GB).

    Each content of that file has an environment of its own, named by its digest. One that was interrupted is made anew;
    others wait for the one that makes it.

    Raises:
        subprocess.CalledProcessError: Installing failed; pip has said why.
    """
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    environment = folder / digest
    python = environment / "bin" / "python"
    with waiting_lock(folder / f"{digest}.lock"):
        if not (environment / _WHOLE).exists():
            shutil.rmtree(environment, ignore_errors=True)
            print(f"Installing the libraries to compare with into {environment} …", flush=True)
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            subprocess.run([*pip, "--requirement", REQUIREMENTS], check=True)
            write_atomically(environment / _WHOLE, b"")
    return python
