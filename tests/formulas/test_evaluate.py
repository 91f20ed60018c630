"""A formula answers by hand-made numbers, refuses what is outside its domain, and reads back what it wrote."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import diffmeter
from diffmeter.errors import InputError
from diffmeter.formulas.evaluate import Formula
from diffmeter.formulas.polynomial import Polynomial

from .toy import toy

FORMULA = toy()
# one forward of one image at 64 x 64, that is 8 x 8 = 64 cells: 576*64 convolutions, 64*64^2 attention, 64 of a norm
CONV, ATTENTION, NORM, DECODE = 36_864, 262_144, 64, 64_000


def test_defaults_by_hand() -> None:
    # guidance 5: both halves of the batch, 10 steps and one more of PNDM
    assert FORMULA.matmul_macs() == 11 * 2 * (CONV + ATTENTION) + DECODE
    assert FORMULA.total_macs() == 11 * 2 * (CONV + ATTENTION + NORM) + DECODE
    assert FORMULA.matmul_macs_without_attention() == 11 * 2 * CONV + DECODE


def test_every_quantity_counts() -> None:
    # half the guidance, 128 x 64 pixels (twice the cells), batch 3, 4 steps
    found = FORMULA.matmul_macs(height=128, width=64, guidance_scale=1.0, batch=3, steps=4)
    assert found == 5 * 3 * (2 * CONV + 4 * ATTENTION) + 3 * 2 * DECODE
    same = FORMULA.matmul_macs(
        height=128, width=64, guidance_scale=1.0, num_images_per_prompt=3, num_inference_steps=4
    )
    assert same == found


def test_components_and_their_polynomials() -> None:
    unet = FORMULA.components["unet"]
    assert unet.calls() == 11
    assert unet.calls(steps=50) == 51
    assert unet.params == 1000
    polynomial = unet.matmul_macs.polynomial()
    assert polynomial == 2 * (Polynomial.variable("steps") + 1) * Polynomial.parse("64*b*x^2*y^2 + 576*b*x*y")
    assert unet.matmul_macs.polynomial(guidance_scale=0.5) * 2 == polynomial
    assert unet.matmul_macs.latex().startswith(r"128 b \mathrm{steps} x^{2} y^{2}")
    assert r"y = \left\lfloor \frac{\mathrm{height}}{8} \right\rfloor" in unet.matmul_macs.latex()
    assert "y = height // 8" in unet.matmul_macs.text()
    assert FORMULA.components["vae"].matmul_macs(batch=2) == 2 * DECODE


def test_a_sweep_in_one_go() -> None:
    sides = np.array([64, 128, 256, 512])
    steps = np.array([[2], [50]])
    found = FORMULA.total_macs(height=sides, width=sides, steps=steps)
    assert found.shape == (2, 4)
    assert found.tolist() == [
        [FORMULA.total_macs(height=side, width=side, steps=n) for side in sides.tolist()] for n in (2, 50)
    ]
    scales = np.array([0.0, 1.0, 1.5, 7.5])
    assert FORMULA.matmul_macs(guidance_scale=scales).tolist() == [
        FORMULA.matmul_macs(guidance_scale=scale) for scale in scales.tolist()
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"height": 60}, "height from 8 to 512 that 8 divides, not for 60"),
        ({"width": 1024}, "not for 1024"),
        ({"steps": 1}, "number of steps from 2 to 100, not for 1"),
        ({"batch": 0}, "not for 0"),
        ({"batch": 1.5}, "must be a whole number, not 1.5"),
        ({"guidance_scale": 50}, "guidance scale from 0 to 1 or from 1 to 20, not for 50"),
        ({"guidance_scale": float("nan")}, "finite number"),
        ({"guidance_scale": "high"}, "'high'"),
        ({"hight": 64}, "did you mean 'height'"),
        ({"num_frames": 9}, "has no 'num_frames'"),
        ({"scheduler": "Euler"}, "knows no scheduler 'Euler'; it knows PNDMScheduler"),
    ],
)
def test_outside_the_domain_is_refused_in_one_sentence(settings: dict[str, Any], said: str) -> None:
    for ask in (FORMULA.matmul_macs, FORMULA.profile, FORMULA.components["unet"].total_macs):
        with pytest.raises(InputError) as refusal:
            ask(**settings)
        assert said in str(refusal.value)
        assert "\n" not in str(refusal.value)
    if isinstance(next(iter(settings.values())), int) and "guidance_scale" not in settings:
        with pytest.raises(InputError):
            FORMULA.matmul_macs(**{name: np.array([value]) for name, value in settings.items()})


def test_a_whole_profile() -> None:
    profile = FORMULA.profile(height=128, steps=3, batch=2)
    assert profile.conditions.kind == "formula"
    assert profile.complete
    assert profile.matmul_macs == FORMULA.matmul_macs(height=128, steps=3, batch=2)
    assert profile.total_macs == FORMULA.total_macs(height=128, steps=3, batch=2)
    assert (profile.conditions.height, profile.conditions.width) == (128, 64)
    assert (profile.steps_run, profile.conditions.num_inference_steps, profile.conditions.batch) == (3, 3, 4)
    (forward,) = profile.components["unet"].calls
    assert (forward.count, forward.batch, forward.shapes) == (4, 4, {"sample": [4, 4, 16, 8]})
    assert profile.input_shape == (2, 3, 128, 64)
    assert [entry.step for entry in profile.timeline] == [0, 1, 2, 3, None]
    assert profile.conditions.arguments["height"] == 128
    assert profile.conditions.versions == {"diffmeter": "0", "diffusers": "0.1", "transformers": "0.2"}
    schema = json.loads((Path(diffmeter.__file__).parent / "schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(profile.to_dict())), schema)
    assert type(profile).from_dict(profile.to_dict()) == profile


def test_json_keeps_everything(tmp_path: Path) -> None:
    again = Formula.from_dict(json.loads(json.dumps(FORMULA.to_dict())))
    assert again == FORMULA
    FORMULA.save(tmp_path / "toy.json")
    assert Formula.load(tmp_path / "toy.json") == FORMULA
    assert diffmeter.formula(tmp_path / "toy.json").matmul_macs() == FORMULA.matmul_macs()


def _broken(change: str) -> Any:
    data = copy.deepcopy(FORMULA.to_dict())
    match change:
        case "schema":
            data["schema_version"] = "2.0"
        case "no schema":
            del data["schema_version"]
        case "proof":
            data["cases"][0]["proof"]["proved"].pop()
        case "more terms than coefficients":
            data["cases"][0]["calls"][0]["macs_by_op"]["conv"] = "1*x^2 + 2*y^2 + 3*x + 4"
        case "polynomial":
            data["cases"][0]["calls"][0]["macs_by_op"]["conv"] = "import os"
        case "missing":
            del data["cases"][0]["calls"]
        case "list":
            return [data]
    return data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("schema", "schema_version is '2.0'"),
        ("no schema", "no formula of schema"),
        ("list", "no formula of schema"),
        ("proof", "broken proof: 1 points for 2 coefficients"),
        ("more terms than coefficients", "broken proof: 2 points for 4 coefficients"),
        ("polynomial", "no polynomial"),
        ("missing", "not whole"),
    ],
)
def test_a_file_that_is_no_formula_is_refused(change: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(_broken(change)))
    with pytest.raises(InputError) as refusal:
        Formula.load(path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_or_no_json(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("{")
    for name in ("missing.json", "text.json"):
        with pytest.raises(InputError, match="cannot be read"):
            diffmeter.formula(str(tmp_path / name))


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from diffmeter.formulas import library, describe, export, questions, evaluate; "
        "print([m for m in ('torch', 'diffusers', 'transformers', 'numpy', 'rich') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
