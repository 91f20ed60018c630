"""Figures of comparisons. They need matplotlib, the extra ``plot``.

Each component has one color in every figure, from the palette of Okabe and Ito, which people with any common color
vision can tell apart. Nothing here knows a model: a figure is drawn from a comparison's rows alone.
"""

from __future__ import annotations

import importlib.util
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError, install_command
from diffmeter.units import format_count

if TYPE_CHECKING:
    from .comparison import Comparison, Row

#: Okabe and Ito, "Color Universal Design" (2008)
ORANGE, SKY_BLUE, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"

#: denoisers have the strongest two, text encoders and decoders keep theirs in every figure
COLORS = {
    "unet": BLUE,
    "transformer": VERMILION,
    "vae": GREEN,
    "vqgan": GREEN,
    "movq": GREEN,
    "text_encoder": ORANGE,
    "text_encoder_2": YELLOW,
    "text_encoder_3": PURPLE,
    "prior": VERMILION,
    "decoder": BLUE,
    "controlnet": SKY_BLUE,
    "image_encoder": SKY_BLUE,
}
#: components without a color of their own share this one
OTHER = "other"

#: more panels than this cannot be read on one page
MAX_PANELS = 30
MAX_BARS = 40
#: files that a figure can be written to
SUFFIXES = (".png", ".svg")


class Figure:
    """A drawn figure; :attr:`figure` is the matplotlib figure. Shows itself in a notebook."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure

    def save(self, path: str | Path) -> Path:
        """Write a PNG or SVG file, whole or not at all; the same rows give the same file.

        Raises:
            InputError: another suffix.
            StorageError: it cannot be written.
        """
        from diffmeter.storage.files import write_bytes

        path = check_plot_file(path)
        return write_bytes(path, self.encode(path.suffix.lower().removeprefix(".")))

    def encode(self, kind: str) -> bytes:
        """The figure as ``"png"`` or ``"svg"``."""
        import matplotlib

        out = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with matplotlib.rc_context({"svg.hashsalt": "diffmeter"}):
            self.figure.savefig(out, format=kind, dpi=150, metadata=metadata)
        return out.getvalue()

    def _repr_png_(self) -> bytes:
        return self.encode("png")


def check_plot_file(path: str | Path) -> Path:
    """The path, if a figure can be drawn and written there.

    Raises:
        InputError: another suffix than .png or .svg, a folder that is not there, or no matplotlib.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"A figure cannot be written to {str(path)!r}: name a file that ends in .png or .svg.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"A figure cannot be written to {str(path)!r}: its folder does not exist.")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"Drawing needs matplotlib: {install_command('plot')}.")
    return path


def color_of(component: str) -> str:
    """The color of a component, the same in every figure; grey for one that has none of its own."""
    return COLORS.get(component.rsplit(".", 1)[-1], GREY)


def plot_components(comparison: Comparison) -> Figure:
    """One stacked bar a row: MACs of the whole generation by component.

    Raises:
        InputError: no row has numbers, or there are too many bars to read.
    """
    rows = _drawable(comparison)
    if len(rows) > MAX_BARS:
        raise InputError(f"{len(rows)} bars cannot be read in one figure: at most {MAX_BARS} rows are drawn.")
    from matplotlib.figure import Figure as Canvas

    prefix, unit = _unit(max(row.total_macs or 0 for row in rows))
    labels = [_bar_label(row, rows) for row in rows]
    lines = max(label.count("\n") + 1 for label in labels)
    figure = Canvas(figsize=(9.0, 1.9 + len(rows) * (0.28 + 0.19 * lines)), layout="constrained")
    axes = figure.add_subplot()
    largest = max(row.total_macs or 0 for row in rows) / unit
    drawn: dict[str, Any] = {}
    for position, row in enumerate(rows):
        start = 0.0
        for name, macs in _by_component(row):
            width = macs / unit
            bar = axes.barh(position, width, left=start, height=0.62, color=color_of(name), edgecolor="white", lw=0.4)
            drawn.setdefault(name, bar)
            start += width
        total = f"{'' if row.complete else 'at least '}{format_count(row.total_macs, 'MACs')}"
        axes.annotate(total, (start, position), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, largest * 1.22)
    axes.set_xlabel(f"Cost of one generation ({prefix}MACs)")
    axes.set_ylabel("Model and setting")
    _quiet_frame(axes, grid="x")
    names = _ordered(drawn)
    figure.legend([drawn[n] for n in names], names, loc="outside upper center", ncols=_columns(names), frameon=False)
    return Figure(figure)


def plot_sizes(comparison: Comparison) -> Figure:
    """Cost against the size of the images, by component: one panel for each model, number of steps and batch.

    Only counted sizes are marked; the lines between them lead the eye. Both axes are logarithmic, so that components
    of very different cost can be seen together, and shared by all panels.

    Raises:
        InputError: no row has numbers and a size, or there are too many panels to read.
    """
    rows = [row for row in _drawable(comparison) if row.height and row.width]
    if not rows:
        raise InputError("No row has a size: cost against size cannot be drawn.")
    panels = _Panels.of(rows)
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=panels.inches, layout="constrained")
    grid = figure.subplots(panels.down, panels.across, sharex=True, sharey=True, squeeze=False)
    square = all(row.height == row.width for row in rows)
    where = _side if square else _megapixels
    drawn: dict[str, Any] = {}
    for axes, key in zip(grid.flat, panels.order(), strict=True):
        axes.set_title(_panel_title(*key, panels.settings), fontsize=9.5)
        _draw_sizes(axes, sorted(panels.rows.get(key, []), key=where), where, drawn)
    _share_axes(list(grid.flat), sorted({where(row) for row in rows}), "{:.0f}" if square else "{:.2f}")
    of_side = "Height = width of the image (pixels)" if square else "Size of the image (megapixels)"
    figure.supxlabel(of_side, fontsize=10)
    figure.supylabel("Cost of one generation (MACs)", fontsize=10)
    names = ["total", *_ordered(name for name in drawn if name != "total")]
    figure.legend([drawn[n] for n in names], names, loc="outside upper center", ncols=_columns(names), frameon=False)
    return Figure(figure)


Setting = tuple[int | None, int | None]  # steps and batch


@dataclass(frozen=True)
class _Panels:
    """Which rows stand in which panel: models side by side, or settings where there is one model only."""

    models: list[str]
    settings: list[Setting]
    rows: dict[tuple[str, Setting], list[Row]]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> _Panels:
        by_panel: dict[tuple[str, Setting], list[Row]] = {}
        for row in rows:
            by_panel.setdefault((row.name, (row.steps, row.batch)), []).append(row)
        models = list(dict.fromkeys(name for name, _ in by_panel))
        settings = sorted({setting for _, setting in by_panel}, key=lambda s: (s[0] or 0, s[1] or 0))
        if len(models) * len(settings) > MAX_PANELS:
            raise InputError(
                f"{len(models)} models at {len(settings)} settings make more panels than can be read: "
                f"at most {MAX_PANELS} are drawn."
            )
        return cls(models, settings, by_panel)

    @property
    def across(self) -> int:
        return len(self.models) if len(self.models) > 1 else len(self.settings)

    @property
    def down(self) -> int:
        return len(self.settings) if len(self.models) > 1 else 1

    @property
    def inches(self) -> tuple[float, float]:
        return max(2.9 * self.across + 1.1, 5.4), 2.5 * self.down + 1.5

    def order(self) -> list[tuple[str, Setting]]:
        """The panels from left to right and from top to bottom."""
        return [(model, setting) for setting in self.settings for model in self.models]


def _draw_sizes(axes: Any, rows: Sequence[Row], where: Callable[[Row], float], drawn: dict[str, Any]) -> None:
    """One panel: the total, and a line for each component; ``drawn`` keeps one line a name for the legend."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    _quiet_frame(axes, grid="both")
    if not rows:
        axes.text(0.5, 0.5, "not counted", ha="center", va="center", transform=axes.transAxes, color="#555555")
        return
    # The total lies under the component that makes up most of it.
    totals = [row.total_macs for row in rows]
    (line,) = axes.plot(list(map(where, rows)), totals, color="#BBBBBB", lw=7, solid_capstyle="round")
    drawn.setdefault("total", line)
    for name in _ordered(dict.fromkeys(name for row in rows for name, _ in _by_component(row))):
        points = [(where(row), macs) for row in rows for found, macs in _by_component(row) if found == name]
        (line,) = axes.plot(*zip(*points, strict=True), color=color_of(name), lw=1.6, marker=_marker(name), ms=5)
        drawn.setdefault(name, line)


def _share_axes(panels: Sequence[Any], sizes: Sequence[float], size_text: str) -> None:
    """Ticks where sizes were counted, as far as their labels do not touch, and powers of ten of MACs."""
    from matplotlib.ticker import FixedLocator, NullLocator

    shown = _spread(sizes, min(5, max(2, len(sizes))))
    for axes in panels:
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: size_text.format(value))
        axes.yaxis.set_major_formatter(lambda value, _: _tick(float(value)))
        axes.yaxis.set_minor_locator(NullLocator())
    if len(sizes) > 1:
        margin = (sizes[-1] / sizes[0]) ** 0.08
        panels[0].set_xlim(sizes[0] / margin, sizes[-1] * margin)


# details -------------------------------------------------------------------------------------------------------------


def _drawable(comparison: Iterable[Row]) -> list[Row]:
    rows = [row for row in comparison if row.error is None and row.total_macs]
    if not rows:
        raise InputError("No row has numbers to draw.")
    return rows


def _by_component(row: Row) -> list[tuple[str, int]]:
    """MACs by component that has a color, denoisers first; the others are summed up."""
    found: dict[str, int] = {}
    for name, cost in row.components.items():
        if cost.total_macs:
            key = name if color_of(name) != GREY else OTHER
            found[key] = found.get(key, 0) + cost.total_macs
    return [(name, found[name]) for name in _ordered(found)]


def _ordered(names: Iterable[str]) -> list[str]:
    """Names in the order of :data:`COLORS` (denoisers first), the same in every bar and legend."""
    order = ["unet", "transformer", "prior", "decoder", "controlnet"]
    order += [name for name in COLORS if name not in order] + [OTHER]

    def place(name: str) -> tuple[int, str]:
        plain = name.rsplit(".", 1)[-1]
        return (order.index(plain) if plain in order else len(order), name)

    return sorted(names, key=place)


def _marker(name: str) -> str:
    """A shape for each component, for who does not see the color."""
    shapes = "osD^vP*X<>ph"
    plain = name.rsplit(".", 1)[-1]
    return shapes[list(COLORS).index(plain) % len(shapes)] if plain in COLORS else "."


def _unit(largest: int) -> tuple[str, int]:
    sizes = (("P", 10**15), ("T", 10**12), ("G", 10**9), ("M", 10**6))
    return next(((prefix, size) for prefix, size in sizes if largest >= size), ("", 1))


def _bar_label(row: Row, rows: Sequence[Row]) -> str:
    """The model, and under it the settings; long names are broken."""
    size = f"{row.width} x {row.height}" if row.width and row.height else None
    steps = None if row.steps is None else f"{row.steps} step{'s' if row.steps != 1 else ''}"
    batch = f"batch {row.batch}" if any((other.batch or 1) != 1 for other in rows) else None
    details = ", ".join(part for part in (size, steps, batch) if part)
    name = "\n".join(textwrap.wrap(_plain(row.name), 32, break_long_words=True)[:2]) or "unnamed"
    return f"{name}\n{details}" if details else name


def _panel_title(model: str, setting: Setting, settings: Sequence[Setting]) -> str:
    steps, batch = setting
    parts = [] if steps is None else [f"{steps} step{'s' if steps != 1 else ''}"]
    if any((other or 1) != 1 for _, other in settings):
        parts.append(f"batch {batch or 1}")
    name = textwrap.shorten(_plain(model), 60, placeholder="...")
    return "\n".join([*textwrap.wrap(name, 30)[:2], ", ".join(parts)]).strip()


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formulas."""
    return text.replace("$", r"\$")


def _side(row: Row) -> float:
    return float(row.height or 0)


def _megapixels(row: Row) -> float:
    return (row.height or 0) * (row.width or 0) / 1e6


def _spread(values: Sequence[float], most: int) -> list[float]:
    """At most ``most`` of sorted values, the first included, none so near another that their labels would touch."""
    if len(values) < 2:
        return list(values)
    gap = math.log(values[-1] / values[0]) / (most + 0.5)
    kept = [values[0]]
    for value in values[1:]:
        if math.log(value / kept[-1]) >= gap:
            kept.append(value)
    return kept


def _tick(value: float) -> str:
    """A power of ten with its prefix: 1e11 is "100 G"."""
    return format_count(round(value), "").strip().replace(".00", "")


def _columns(names: Sequence[str]) -> int:
    return min(len(names), 5)


def _quiet_frame(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis=grid, color="#E3E3E3", lw=0.7)
    axes.set_axisbelow(True)
