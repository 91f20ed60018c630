"""Renderers: what people see adds up, and nothing in it becomes markup."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffmeter.profile import CallProfile, ComponentProfile, ComputeProfile, Conditions
from diffmeter.reports.profile_tables import completeness, profile_facts, profile_html, profile_rows, profile_text


@pytest.fixture
def profile() -> ComputeProfile:
    """By hand: a denoiser called twice at 300 + 100 MACs, a decoder called once at 200."""

    def call(method: str, count: int, conv: int, norm: int) -> CallProfile:
        shapes = {"sample": [2, 4, 8, 8]}
        by_op = {"conv": conv, "normalization": norm}
        op_level = {"aten.convolution": conv}
        return CallProfile(method, count, 2, shapes, {"sample": "float32"}, conv, conv, conv + norm, by_op, op_level)

    components = {
        "unet": ComponentProfile("unet", "UNet2DConditionModel", 1_500_000, (call("forward", 2, 300, 100),)),
        "vae": ComponentProfile("vae", "AutoencoderKL", 500_000, (call("decode", 1, 200, 0),)),
    }
    conditions = Conditions("StableDiffusionPipeline", "dry_run", "<b>id</b>", 512, 256, 2)
    return ComputeProfile(components, ("unet",), conditions, steps_run=2)


def test_rows_add_up(profile: ComputeProfile) -> None:
    rows = profile_rows(profile)
    assert [row[0] for row in rows] == ["unet", "vae", "total"]
    assert [row[3] for row in rows] == ["2", "1", "3"]
    assert [row[4] for row in rows] == ["800 MACs", "200 MACs", "1.00 KMACs"]
    assert [row[6] for row in rows] == ["80.00%", "20.00%", "100.00%"]
    assert rows[-1][2] == "2.00M"


def test_facts_name_size_steps_and_flops(profile: ComputeProfile) -> None:
    facts = dict(profile_facts(profile))
    assert facts["Size"] == "256 x 512"
    assert facts["MACs per step"] == "400 MACs"  # 800 over two steps
    assert facts["Total FLOPs"] == "2.00 KFLOPs"  # 2 x 1,000
    assert "Inference time" not in facts  # nothing was run


def test_what_is_missing_is_said(profile: ComputeProfile) -> None:
    assert completeness(profile).startswith("yes")
    missing = replace(profile, uncounted=({"component": "unet", "op": "mylib.attention", "calls": 3},))
    assert completeness(missing) == "no: unet: mylib.attention (3 x)"
    difference = {"component": "vae", "method": "decode", "op": "convolution", "thop": 1, "op_level": 2}
    assert "vae.decode: counters differ on convolution (1 against 2)" in completeness(
        replace(profile, differences=(difference,))
    )


def test_html_escapes_and_text_is_aligned(profile: ComputeProfile) -> None:
    named = replace(
        profile, components={"<i>": ComponentProfile("<i>", "A&B", 1, profile.components["vae"].calls)}, denoisers=()
    )
    page = profile_html(named)
    assert "<i>" not in page and "&lt;i&gt;" in page and "A&amp;B" in page
    lines = profile_text(profile).splitlines()
    assert lines[0].startswith("Component") and lines[1].startswith("unet")
    assert lines[0].index("Class") == lines[1].index("UNet2DConditionModel")
