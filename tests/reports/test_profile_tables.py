"""A profile as a table: what people see adds up, and what is incomplete looks incomplete."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from diffmeter.errors import InputError
from diffmeter.profile import CallProfile, ComponentProfile, ComputeProfile, Conditions
from diffmeter.reports.profile_tables import completeness, profile_table
from tests.reports.hand_made import incomplete
from tests.reports.hand_made import profile as guided


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


def column(profile: ComputeProfile, key: str, **options: str) -> list[str]:
    table = profile_table(profile, **options).choose(key)
    return [table.cell(line, table.columns[0]) for line in table.lines]


def test_rows_add_up(profile: ComputeProfile) -> None:
    assert column(profile, "component") == ["unet", "vae", "total"]
    assert column(profile, "calls") == ["2", "1", "3"]
    assert column(profile, "macs") == ["800", "200", "1,000"]
    assert column(profile, "share") == ["80.00%", "20.00%", "100.00%"]
    assert column(profile, "params") == ["1,500.00", "500.00", "2,000.00"]


def test_title_and_facts_name_the_conditions(profile: ComputeProfile) -> None:
    text = str(profile)
    assert text.splitlines()[0] == "<b>id</b>: 256 x 512, 2 steps"
    assert "MACs per step of the denoiser: 400 MACs" in text  # 800 over two steps
    assert "FLOPs (2 x MACs): 2.00 KFLOPs" in text  # 2 x 1,000
    assert "Inference time" not in text  # nothing was run
    title = str(replace(guided(), steps_run=7, generations=2)).splitlines()[0]
    assert title == (
        "hand/made: 512 x 512, 10 steps asked, 7 run, guidance 7.5, batch 1, DDIMScheduler, float16, 2 generations"
    )
    video = replace(guided(), conditions=replace(guided().conditions, arguments={"num_frames": 49}))
    assert "512 x 512, 49 frames, 10 steps" in str(video)


def test_what_is_missing_is_said_first_and_nothing_looks_finished() -> None:
    text = str(incomplete(guided()))
    assert text.splitlines()[0].startswith("INCOMPLETE: not everything was counted")
    assert ">= 11.00" in text and ">= 12.10" in text and "Not counted: unet: mylib.attention (3 x)" in text
    assert "%" not in text and "Complete" not in text
    (decoder,) = [line for line in text.splitlines() if line.startswith("vae")]
    assert ">=" not in decoder, "everything of the decoder was counted"
    data = incomplete(guided()).to_dict()
    assert data["total_macs_str"] == ">= 12.10 TMACs" and data["components"]["unet"]["total_macs_str"].startswith(
        ">= "
    )
    assert data["components"]["vae"]["total_macs_str"] == "1.10 TMACs"
    assert incomplete(guided()).attention_share is None and guided().attention_share == 0.25


def test_where_the_counters_differ_is_said(profile: ComputeProfile) -> None:
    assert completeness(profile).startswith("yes")
    difference = {"component": "vae", "method": "decode", "op": "convolution", "thop": 1, "op_level": 2}
    other = replace(profile, differences=(difference,))
    assert "vae.decode: counters differ on convolution (1 against 2)" in completeness(other)
    assert completeness(replace(profile, uncounted=({"component": "unet", "op": "a.b", "calls": 3},))) == (
        "no: unet: a.b (3 x)"
    )


@pytest.mark.parametrize(
    ("convention", "per", "unet", "vae"),
    [
        ("total", "image", "11.00", "1.10"),
        ("products", "step", "1.00", None),
        ("paper", "step", "750.00", None),
        ("paper", "forward", "375.00", "750.00"),  # two samples in a call of the denoiser, one in the decoder's
    ],
)
def test_conventions_and_units_of_work(convention: str, per: str, unet: str, vae: str | None) -> None:
    cells = column(guided(), "macs", convention=convention, per=per)
    assert cells[0] == unet and (vae is None or cells[1] == vae)
    assert ("total" in column(guided(), "component", convention=convention, per=per)) == (per != "forward")


def test_two_images_of_one_call_share_its_cost() -> None:
    assert guided(batch=2).macs("products", "image") == 11 * 10**12 // 2
    assert guided(batch=None).macs("products", "image") is None
    for bad in ({"convention": "none"}, {"per": "none"}):
        with pytest.raises(InputError):
            guided().macs(**bad)


def test_csv_rows_carry_their_conditions() -> None:
    rows = list(csv.DictReader(io.StringIO(guided().to_csv())))
    assert [row["component"] for row in rows] == ["unet", "vae"]
    assert {(row["model"], row["scheduler"], row["guidance"]) for row in rows} == {
        ("hand/made", "DDIMScheduler", "7.5")
    }
    assert rows[0]["matmul_macs_without_attention"] == str(75 * 10**11)


def test_html_escapes(profile: ComputeProfile) -> None:
    part = ComponentProfile("<i>", "A&B", 1, profile.components["vae"].calls)
    page = replace(profile, components={"<i>": part}, denoisers=())._repr_html_()
    assert "<i>" not in page and "<b>id" not in page and "&lt;i&gt;" in page and "A&amp;B" in page
