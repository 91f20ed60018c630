"""Figures of comparisons: labels, units, colors, and nothing on top of anything else."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffmeter.errors import InputError
from diffmeter.profile import ComponentProfile
from diffmeter.reports.comparison import Comparison, Row
from tests.reports.hand_made import call, profile
from tests.reports.hand_made import row as hand_made_row

pytest.importorskip("matplotlib")

from diffmeter.reports import plots as plotting

# Okabe and Ito, "Color Universal Design" (2008): the eight colors as published
OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}


def row(model: str, side: int = 512, steps: int = 10, batch: int = 1, width: int | None = None) -> Row:
    macs = {"unet": side**2 * steps * batch * 10**5, "vae": side**2 * batch * 10**6, "text_encoder": 7 * 10**9}
    macs["safety_checker"] = 10**9
    parts = {name: ComponentProfile(name, "Net", 1, (call(value, total_macs=value),)) for name, value in macs.items()}
    made = profile(height=side, width=width or side, steps=steps, batch=batch)
    return hand_made_row(model, replace(made, components=parts))


def visible_texts(picture: plotting.Figure) -> list[tuple[str, Any]]:
    """Every text that is drawn, with its box in pixels."""
    from matplotlib.axis import Tick
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(picture.figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    # An axis keeps ticks beyond its ends, which are never drawn.
    hidden: set[int] = set()
    for axes in picture.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown = {id(tick) for tick in axis._update_ticks()}
            for tick in axis.findobj(Tick):
                if id(tick) not in shown:
                    hidden |= {id(tick.label1), id(tick.label2)}
    texts = [
        t for t in picture.figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in hidden
    ]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts]


def assert_readable(picture: plotting.Figure) -> None:
    texts = visible_texts(picture)
    assert len(texts) > 5
    width, height = picture.figure.canvas.get_width_height()
    for text, box in texts:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"{text!r} is cut off"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
        assert not overlap, f"{one!r} lies on {other!r}"


COMPARED = Comparison(
    [row("Model A"), row("A model with quite a long name: " + "x" * 40, 1024, 50), row("$C_1$", 256, 4)]
)
SWEPT = Comparison(
    [
        row(m, side, steps)
        for m in ("A", "A second model of some name")
        for side in (256, 512, 520, 1024)
        for steps in (4, 50)
    ]
)


def test_components_are_stacked_bars_with_units() -> None:
    picture = plotting.plot_components(COMPARED)
    axes = picture.figure.axes[0]
    assert axes.get_xlabel() == "Cost of one generation (TMACs)" and axes.get_ylabel()
    assert_readable(picture)
    # each bar ends where the row's total is
    ends: dict[float, float] = {}
    for patch in axes.patches:
        middle = patch.get_y() + patch.get_height() / 2
        ends[middle] = max(ends.get(middle, 0.0), patch.get_x() + patch.get_width())
    assert [ends[i] for i in sorted(ends)] == pytest.approx([(r.total_macs or 0) / 1e12 for r in COMPARED])


def test_sizes_have_units_on_both_axes() -> None:
    picture = plotting.plot_sizes(SWEPT)
    assert picture.figure.get_supxlabel() == "Height = width of the image (pixels)"
    assert picture.figure.get_supylabel() == "Cost of one generation (MACs)"
    assert len(picture.figure.axes) == 4, "two models at two step counts"
    assert_readable(picture)


def test_sizes_that_are_not_square_are_in_megapixels() -> None:
    wide = Comparison([row("A", 512), row("A", 1024, width=2048)])
    assert plotting.plot_sizes(wide).figure.get_supxlabel() == "Size of the image (megapixels)"


def test_one_model_at_many_settings() -> None:
    many = Comparison(
        [row("A", side, steps, batch) for side in (512, 768) for steps in (4, 28, 50) for batch in (1, 4)]
    )
    picture = plotting.plot_sizes(many)
    assert len(picture.figure.axes) == 6
    assert_readable(picture)


def test_a_component_has_one_color_everywhere() -> None:
    from matplotlib.colors import to_hex

    def legend(picture: plotting.Figure) -> dict[str, str]:
        box = picture.figure.legends[0]
        colors = [
            to_hex(h.get_facecolor() if hasattr(h, "get_facecolor") else h.get_color()).upper()
            for h in box.legend_handles
        ]
        return dict(zip([t.get_text() for t in box.get_texts()], colors, strict=True))

    bars, lines = legend(plotting.plot_components(COMPARED)), legend(plotting.plot_sizes(SWEPT))
    assert {"unet", "vae", "text_encoder"} <= set(bars) & set(lines)
    for name in set(bars) & set(lines):
        assert bars[name] == lines[name] == plotting.color_of(name).upper()
    assert {plotting.color_of(name).upper() for name in plotting.COLORS} <= OKABE_ITO
    # no two components of one known pipeline share a color
    for together in (("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder"),
                     ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "controlnet"),
                     ("prior", "decoder", "vqgan", "text_encoder")):  # fmt: skip
        assert len({plotting.color_of(name) for name in together}) == len(together)


def test_files(tmp_path: Path) -> None:
    picture = plotting.plot_components(COMPARED)
    png, svg = picture.save(tmp_path / "a.png"), picture.save(tmp_path / "a.svg")
    assert png.read_bytes().startswith(b"\x89PNG") and picture._repr_png_() == png.read_bytes()
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert plotting.plot_components(COMPARED).save(tmp_path / "b.svg").read_bytes() == svg.read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "a", "missing/a.png"])
def test_a_file_that_cannot_be_drawn_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        plotting.check_plot_file(tmp_path / name)


def test_nothing_to_draw_is_said() -> None:
    failed = Comparison([hand_made_row("m", error="why")])
    with pytest.raises(InputError, match="No row has numbers"):
        plotting.plot_components(failed)
    with pytest.raises(InputError, match="No row has a size"):
        plotting.plot_sizes(Comparison([hand_made_row("A", profile(height=None, width=None))]))
    with pytest.raises(InputError, match="at most"):
        plotting.plot_components(Comparison([row("A")] * (plotting.MAX_BARS + 1)))
    with pytest.raises(InputError, match="at most"):
        plotting.plot_sizes(Comparison([row("A", steps=n) for n in range(1, plotting.MAX_PANELS + 2)]))


def test_missing_matplotlib_is_one_sentence_with_the_command_that_works_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plotting.importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(Path(__file__).parent.parent.parent)
    with pytest.raises(InputError, match=r'pip install -e "\.\[plot\]"'):
        plotting.check_plot_file(tmp_path / "a.png")
