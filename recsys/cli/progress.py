"""A bar on the terminal: users done, users a second, and the time that is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from recsys.features.progress import Progress


class _Speed(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:,.0f}/s")


@contextmanager
def user_progress() -> Iterator[Progress]:
    """Shows on stderr, while it lasts, what work tells of itself; a stage begins anew where its name changes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    console = Console(stderr=True)
    quiet = not console.is_terminal  # in the log of a scheduler a bar is noise
    with Bars(*columns, console=console, transient=True, disable=quiet, speed_estimate_period=600) as bars:
        tasks = [bars.add_task("reading inputs", total=None)]

        def progress(stage: str, done: int, total: int) -> None:
            if bars.tasks[-1].description != stage:
                bars.remove_task(tasks.pop())
                tasks.append(bars.add_task(stage, total=total))
            bars.update(tasks[-1], completed=done, total=total)

        yield progress
