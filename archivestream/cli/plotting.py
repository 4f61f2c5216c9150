"""What ``archivestream stats`` draws, with matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal

from archivestream.archive_stats import ArchiveStats, Bin
from archivestream.cli.errors import CommandError
from archivestream.cli.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bin_label", "check_plotting", "class_label", "plot_stats"]

_MOST_SHOWN = 30  # classes
_FEWEST_ROWS = 6
_NAME_WIDTH = 30


def bin_label(one: Bin) -> str:
    """Say which sizes a bar is of."""
    return f"{decimal(one.low)} to {decimal(one.high)}" if one.low else "empty"


def class_label(name: str) -> str:
    """Write the name of a class in a line of bounded length."""
    label = printable(name) or "(none)"
    return label if len(label) <= _NAME_WIDTH else f"{label[: _NAME_WIDTH - 3]}..."


def check_plotting(path: Path) -> None:
    """Raise `CommandError` where nothing can be drawn to a file: before it is worked out what."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise CommandError(f"--plot needs matplotlib ({error}): pip install 'archivestream[plot]'") from error
    kinds = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise CommandError(f"{path}: the name of a picture ends with .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise CommandError(f"{path}: there is no such folder")


def plot_stats(found: ArchiveStats, path: Path) -> None:
    """Draw sizes, types, compression and classes as bars; a file that is there is replaced."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")  # with no window system, and no state of pyplot
    summary, speed = found.summary, found.speed
    title = f"{summary.files:,} files, {decimal(summary.size)} ({decimal(summary.compressed_size)} compressed)"
    if speed is not None:
        title += f", {speed.members_per_second:,.0f} members/s, {decimal(int(speed.bytes_per_second))}/s"
    figure.suptitle(title)
    (top_left, top_right), (bottom_left, bottom_right) = figure.subplots(2, 2)
    bins = found.sizes.histogram if found.sizes else []
    _bars(top_left, "sizes of files", [(bin_label(one), one.count) for one in bins])
    _bars(top_right, "types of files", [(name, one.count) for name, one in found.types.items()])
    _bars(bottom_left, "compression of members", list(summary.methods.items()))
    classes = sorted(found.classes.items(), key=lambda item: -item[1])
    shown = f", {_MOST_SHOWN} largest" if len(classes) > _MOST_SHOWN else ""
    _bars(
        bottom_right,
        f"files in each of {len(classes):,} classes (folders){shown}",
        [(class_label(name), count) for name, count in classes[:_MOST_SHOWN]],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a name in a script without a font
        figure.savefig(path)


def _bars(axes: Axes, title: str, counts: Sequence[tuple[str, int]]) -> None:
    """Draw horizontal bars, the first on top."""
    axes.set_title(title)
    if not counts:
        axes.set_axis_off()
        return
    places = range(len(counts))
    axes.barh(places, [count for _, count in counts])
    # As they stand: a name with dollar signs is no formula.
    size = "small" if len(counts) < 16 else "xx-small"
    axes.set_yticks(places, [label for label, _ in counts], parse_math=False, fontsize=size)
    axes.set_ylim(max(len(counts), _FEWEST_ROWS) - 0.5, -0.5)  # a single bar is no wall
    axes.spines[["top", "right"]].set_visible(False)
