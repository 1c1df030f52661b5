"""A progress bar for commands that take a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(
    label: str, *, in_bytes: bool = False, shown: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; silence elsewhere.

    Args:
      label: stands before the bar.
      in_bytes: whether what is counted are bytes.
      shown: false keeps quiet on a terminal too.

    Yields:
      A function to call with what is done so far, and with all there is.
    """
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress

    console = Console(stderr=True)
    counted = [DownloadColumn()] if in_bytes else []
    bar = Progress(
        *Progress.get_default_columns(),
        *counted,
        console=console,
        disable=not shown or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(label)
        yield lambda done, total: bar.update(task, completed=done, total=total)
