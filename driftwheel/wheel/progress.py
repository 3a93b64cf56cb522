"""What a person sees of long work: bars on a terminal, plain lines elsewhere, nothing at all with ``--json``."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Task(Protocol):
    """One piece of long work."""

    def update(self, done: float, total: float, detail: str = "") -> None:
        """Say how far it is."""
        ...

    def finish(self, detail: str) -> None:
        """Say how it ended, in a few words."""
        ...


class Reporter(Protocol):
    """Where pieces of work are shown."""

    @contextmanager
    def task(self, title: str) -> Generator[Task]:
        """Show a piece of work while the block runs."""
        ...

    def note(self, text: str) -> None:
        """Show a line."""
        ...


class _Silent:
    """Shows nothing; also the task it hands out."""

    @contextmanager
    def task(self, title: str) -> Generator[Task]:
        del title
        yield self

    def note(self, text: str) -> None:
        del text

    def update(self, done: float, total: float, detail: str = "") -> None:
        del done, total, detail

    def finish(self, detail: str) -> None:
        del detail


SILENT: Reporter = _Silent()


class LineReporter:
    """A line at the start of a piece of work, and one at its end."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, title: str) -> Generator[Task]:
        """See ``Reporter.task``."""
        self._console.print(f"{title} …", highlight=False)
        started, task = time.monotonic(), _Line()
        yield task
        took_s = time.monotonic() - started
        self._console.print(f"  {task.detail or 'done'} ({took_s:.1f} s)", highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """See ``Reporter.note``."""
        self._console.print(f"  {text}", highlight=False, soft_wrap=True)


class _Line:
    detail = ""

    def update(self, done: float, total: float, detail: str = "") -> None:
        del done, total, detail

    def finish(self, detail: str) -> None:
        self.detail = detail


class BarReporter:
    """A bar that moves, then a line that stays."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, title: str) -> Generator[Task]:
        """See ``Reporter.task``."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
        )
        started = time.monotonic()
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = _Bar(progress, progress.add_task(title, total=None, detail=""))
            yield task
        self._console.print(
            f"[green]✓[/] {title}: {task.detail or 'done'} [dim]({time.monotonic() - started:.1f} s)[/]",
            highlight=False,
        )

    def note(self, text: str) -> None:
        """See ``Reporter.note``."""
        self._console.print(f"  {text}", highlight=False)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self.detail = ""

    def update(self, done: float, total: float, detail: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, detail=detail)

    def finish(self, detail: str) -> None:
        self.detail = detail


def reporter_for(console: Console) -> Reporter:
    """Bars where somebody watches, lines where a file or another program does."""
    return BarReporter(console) if console.is_terminal else LineReporter(console)
