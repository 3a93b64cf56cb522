"""The console's own files: a page, its style and its scripts, which lie beside this file and need nothing from elsewhere."""

from pathlib import Path

from driftwheel.errors import NotFoundError

_FOLDER = Path(__file__).parent / "page"

_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}

PAGE = "index.html"

PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from elsewhere."""

REPORT_POLICY = (
    b"sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    b"img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A report brings its own scripts, and names from the data. They run as a site of their own: no cookie of the console's, no
call to anybody.
"""


def read_page_file(name: str) -> tuple[bytes, bytes]:
    """One of the console's files, and its content type.

    Raises:
        NotFoundError: There is none of that name.
    """
    if name not in {path.name for path in _FOLDER.iterdir()}:
        raise NotFoundError(f"the console has no file {name[:80]!r}")
    path = _FOLDER / name
    return path.read_bytes(), _TYPES[path.suffix]
