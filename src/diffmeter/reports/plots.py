"""Pictures of comparisons. Needs matplotlib: ``pip install "diffmeter[plot]"``.

Each component has one color in every picture, from the palette of Okabe and Ito, which people with any common color
vision can tell apart. Nothing here knows a model: a picture is drawn from a comparison's rows alone.
"""

from __future__ import annotations

import importlib.util
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError
from diffmeter.units import format_count

if TYPE_CHECKING:
    from .comparison import Comparison, Row

#: Okabe and Ito, "Color Universal Design" (2008)
ORANGE, SKY_BLUE, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY = "#999999"

#: denoisers have the strongest two, text encoders and decoders keep theirs in every picture
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
#: files that a picture can be written to
SUFFIXES = (".png", ".svg")


class Picture:
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
        """The picture as ``"png"`` or ``"svg"``."""
        import matplotlib

        out = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with matplotlib.rc_context({"svg.hashsalt": "diffmeter"}):
            self.figure.savefig(out, format=kind, dpi=150, metadata=metadata)
        return out.getvalue()

    def _repr_png_(self) -> bytes:
        return self.encode("png")


def check_plot_file(path: str | Path) -> Path:
    """The path, if a picture can be drawn and written there.

    Raises:
        InputError: another suffix than .png or .svg, a folder that is not there, or no matplotlib.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"A picture cannot be written to {str(path)!r}: name a file that ends in .png or .svg.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"A picture cannot be written to {str(path)!r}: its folder does not exist.")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError('Drawing needs matplotlib: pip install "diffmeter[plot]".')
    return path


def color_of(component: str) -> str:
    """The color of a component, the same in every picture; grey for one that has none of its own."""
    return COLORS.get(component.rsplit(".", 1)[-1], GREY)


def plot_components(comparison: Comparison) -> Picture:
    """One stacked bar a row: MACs of the whole generation by component.

    Raises:
        InputError: no row has numbers, or there are too many bars to read.
    """
    rows = _drawable(comparison)
    if len(rows) > MAX_BARS:
        raise InputError(f"{len(rows)} bars cannot be read in one picture: at most {MAX_BARS} rows are drawn.")
    from matplotlib.figure import Figure

    prefix, unit = _unit(max(row.total_macs or 0 for row in rows))
    labels = [_bar_label(row, rows) for row in rows]
    lines = max(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(9.0, 1.9 + len(rows) * (0.28 + 0.19 * lines)), layout="constrained")
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
    return Picture(figure)


def plot_sizes(comparison: Comparison) -> Picture:
    """Cost against the size of the picture, by component: one panel for each model, number of steps and batch.

    Only counted sizes are marked; the lines between them lead the eye. Both axes are logarithmic, so that components
    of very different cost can be seen together, and shared by all panels.

    Raises:
        InputError: no row has numbers and a size, or there are too many panels to read.
    """
    rows = [row for row in _drawable(comparison) if row.height and row.width]
    if not rows:
        raise InputError("No row has a size: cost against size cannot be drawn.")
    panels: dict[tuple[str, tuple[int | None, int]], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.name, (row.steps, row.batch)), []).append(row)
    models = list(dict.fromkeys(name for name, _ in panels))
    settings = sorted(dict.fromkeys(setting for _, setting in panels), key=lambda s: (s[0] or 0, s[1]))
    if len(models) * len(settings) > MAX_PANELS:
        raise InputError(
            f"{len(models)} models at {len(settings)} settings make more panels than can be read: "
            f"at most {MAX_PANELS} are drawn."
        )
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    # Models side by side; settings side by side where there is one model only.
    across, down = (len(models), len(settings)) if len(models) > 1 else (len(settings), 1)
    figure = Figure(figsize=(max(2.9 * across + 1.1, 5.4), 2.5 * down + 1.5), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    square = all(row.height == row.width for row in rows)
    where = _side if square else _megapixels
    ticks = sorted({where(row) for row in rows})
    drawn: dict[str, Any] = {}
    for index, axes in enumerate(grid.flat):
        model = models[index % across] if len(models) > 1 else models[0]
        setting = settings[index // across] if len(models) > 1 else settings[index]
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(_panel_title(model, setting, settings), fontsize=9.5)
        _quiet_frame(axes, grid="both")
        found = sorted(panels.get((model, setting), []), key=where)
        if not found:
            axes.text(0.5, 0.5, "not counted", ha="center", va="center", transform=axes.transAxes, color="#555555")
            continue
        xs = [where(row) for row in found]
        # The total lies under the component that makes up most of it.
        totals = axes.plot(xs, [row.total_macs for row in found], color="#BBBBBB", lw=7, solid_capstyle="round")
        drawn.setdefault("total", totals[0])
        for name in _ordered(dict.fromkeys(n for row in found for n, _ in _by_component(row))):
            points = [(where(row), dict(_by_component(row)).get(name)) for row in found]
            kept = [(x, macs) for x, macs in points if macs]
            line = axes.plot(*zip(*kept, strict=True), color=color_of(name), lw=1.6, marker=_marker(name), ms=5)
            drawn.setdefault(name, line[0])
    shown = _spread(ticks, min(5, max(2, len(ticks))))
    for axes in grid.flat:
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}" if square else f"{value:.2f}")
        axes.yaxis.set_major_formatter(lambda value, _: _tick(float(value)))
        axes.yaxis.set_minor_locator(NullLocator())
    if len(ticks) > 1:
        margin = (ticks[-1] / ticks[0]) ** 0.08
        grid.flat[0].set_xlim(ticks[0] / margin, ticks[-1] * margin)
    figure.supxlabel(
        "Height = width of the picture (pixels)" if square else "Size of the picture (megapixels)", fontsize=10
    )
    figure.supylabel("Cost of one generation (MACs)", fontsize=10)
    names = ["total", *_ordered(name for name in drawn if name != "total")]
    figure.legend([drawn[n] for n in names], names, loc="outside upper center", ncols=_columns(names), frameon=False)
    return Picture(figure)


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
    batch = f"batch {row.batch}" if any(other.batch != 1 for other in rows) else None
    details = ", ".join(part for part in (size, steps, batch) if part)
    name = "\n".join(textwrap.wrap(_plain(row.name), 32, break_long_words=True)[:2]) or "unnamed"
    return f"{name}\n{details}" if details else name


def _panel_title(model: str, setting: tuple[int | None, int], settings: Sequence[tuple[int | None, int]]) -> str:
    steps, batch = setting
    parts = [] if steps is None else [f"{steps} step{'s' if steps != 1 else ''}"]
    if any(other != 1 for _, other in settings):
        parts.append(f"batch {batch}")
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
