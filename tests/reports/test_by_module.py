"""Counts by module: rows sum up to their component, whichever depth, and a layer's row is what its formula says."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
import torch

from diffmeter import ComputeProfile, dry_run, observe
from diffmeter.errors import InputError
from diffmeter.profile import CONVENTIONS
from tests.custom import CustomPipeline, component
from tests.reports.hand_made import incomplete
from tests.zoo import ZOO

NAMES = ("StableDiffusionPipeline", "FluxPipeline")


@pytest.fixture(scope="module", params=[(name, kind) for name in NAMES for kind in ("dry", "observed")], ids="-".join)
def profile(request: pytest.FixtureRequest) -> ComputeProfile:
    name, kind = request.param
    case = ZOO[name]
    pipe = case.build()
    if kind == "dry":
        return dry_run(pipe, **case.arguments(pipe))
    with observe(pipe) as run:
        pipe(**case.arguments(pipe))
    return run.profile


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 99])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_rows_sum_up_to_their_component(profile: ComputeProfile, depth: int, convention: str) -> None:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in profile.by_module(depth, convention):
        sums[row["path"].split(".")[0]][0] += row["params"]
        sums[row["path"].split(".")[0]][1] += row["macs"]
    for name, part in profile.components.items():
        assert sums[name] == [part.params, getattr(part, CONVENTIONS[convention]) or 0], name
    shares = [row["share"] for row in profile.by_module(depth, convention)]
    assert sum(shares) == pytest.approx(1.0)


def test_every_module_has_a_share_of_its_own(profile: ComputeProfile) -> None:
    """Where every call was counted on a twin, less than a thousandth is left that belongs to no module below."""
    for part in profile.components.values():
        if part.calls:
            own = part.own_by_module("products")
            assert own[""][1] * 1000 <= sum(macs for _, macs in own.values()), part.name


def test_a_layer_has_the_macs_of_its_formula() -> None:
    pipe = ZOO["StableDiffusionPipeline"].build()
    profile = dry_run(pipe, prompt="x", height=32, width=32, num_inference_steps=2, guidance_scale=5.0)
    rows = {row["path"]: row for row in profile.by_module(99, "products")}
    conv = pipe.unet.conv_in
    # 2 calls of 2 samples; the VAE's factor is 2, so that latents are 16 x 16
    assert rows["unet.conv_in"]["macs"] == 2 * 2 * 16 * 16 * conv.in_channels * conv.out_channels * 3 * 3
    assert rows["unet.conv_in"]["class"] == "Conv2d"
    assert rows["unet.conv_in"]["params"] == conv.weight.numel() + conv.bias.numel()


def test_a_module_that_is_called_twice_counts_twice_and_its_parameters_once() -> None:
    def forward(self, x):  # type: ignore[no-untyped-def]
        return torch.matmul(self.a(self.a(x)), x.transpose(-1, -2))

    pipe = CustomPipeline(component(forward))
    with observe(pipe) as run:
        pipe()
    (name,) = run.profile.components
    rows = {row["path"]: row for row in run.profile.by_module(1, "products")}
    layer = rows[f"{name}.a"]
    inside = run.profile.components[name].modules["a"]
    assert layer["params"] == inside.params
    # what the component multiplies itself is its own, beside its layer
    assert rows[name]["macs"] + layer["macs"] == run.profile.matmul_macs
    (call,) = run.profile.components[name].calls
    rows_of_input = 1
    for size in next(iter(call.shapes.values()))[:-1]:
        rows_of_input *= size
    features = next(iter(call.shapes.values()))[-1]
    assert layer["macs"] == 2 * call.count * rows_of_input * features * features


def test_modules_can_be_left_out_and_named(profile: ComputeProfile) -> None:
    denoiser = profile.denoisers[0]
    below = [row for row in profile.by_module(1) if row["path"].startswith(f"{denoiser}.")]
    chosen = below[0]["path"]
    named = profile.by_module(1, ignore=["vae"], names={chosen: "the first part", "text_encoder": "the text"})
    paths = [row["path"] for row in named]
    assert "the first part" in paths and chosen not in paths and not any(path.startswith("vae") for path in paths)
    first = next(row for row in named if row["path"] == "the first part")
    assert (first["macs"], first["params"], first["class"]) == (
        below[0]["macs"],
        below[0]["params"],
        below[0]["class"],
    )
    text = next(row for row in named if row["path"] == "the text")
    assert text["macs"] == profile.components["text_encoder"].total_macs


def test_nothing_is_lost_in_json_and_records_can_go_without(profile: ComputeProfile) -> None:
    again = ComputeProfile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert again == profile and again.by_module(3) == profile.by_module(3)
    short = ComputeProfile.from_dict(json.loads(json.dumps(profile.to_dict(modules=False))))
    assert short.total_macs == profile.total_macs
    assert [row["macs"] for row in short.by_module(3)] == [
        part.total_macs or 0 for part in profile.components.values()
    ]


def test_the_table_has_a_total_and_no_shares_if_incomplete(profile: ComputeProfile) -> None:
    text = profile.render("table", depth=1)
    assert text.count("100.00%") == 1 and f"{profile.denoisers[0]}." in text
    gap = {"component": profile.denoisers[0], "op": "a.b", "calls": 1}
    from dataclasses import replace

    missing = replace(profile, uncounted=(gap,)).render("table", depth=1)
    assert "%" not in missing and ">= " in missing and missing.startswith("INCOMPLETE")
    with pytest.raises(InputError, match="not both"):
        profile.render("table", depth=1, per="step")
    with pytest.raises(InputError, match="depth"):
        profile.by_module(-1)


def test_bounds_carry_into_modules() -> None:
    from tests.reports.hand_made import profile as hand_made

    assert all(row["share"] is None for row in incomplete(hand_made()).by_module(1))
