"""A formula written by hand, small enough to be computed on paper."""

from __future__ import annotations

from diffmeter.formulas.domain import Length, Range
from diffmeter.formulas.evaluate import CallFormula, Case, Formula, Part, Proof
from diffmeter.formulas.polynomial import Polynomial
from diffmeter.formulas.program import Program, Segment, Slot

P = Polynomial.parse
ONCE = Length("one", ("steps",), 0, 1, 1)
CONDITIONS = {
    "pipeline": "ToyPipeline",
    "kind": "formula",
    "model_id": "toys/toy",
    "scheduler": "PNDMScheduler",
    "dtype": "float32",
    "attention_backend": "native",
    "device": "meta",
    "arguments": {"height": 64, "width": 64, "num_inference_steps": 10, "guidance_scale": 5.0, "prompt": "a photo"},
    "versions": {"diffmeter": "0", "diffusers": "0.1", "transformers": "0.2"},
}


def call(component: str, method: str, macs: dict[str, str], shape: list[str]) -> CallFormula:
    """A call whose op-level count is its convolutions and its attention products."""
    products = {"conv": "aten.convolution", "attention": "aten.bmm"}
    return CallFormula(
        component=component,
        method=method,
        macs_by_op={name: P(text) for name, text in macs.items()},
        op_level={products[name]: P(text) for name, text in macs.items() if name in products},
        shapes={"sample": tuple(map(P, shape))},
        dtypes={"sample": "float32"},
        output_shape=tuple(map(P, shape)),
    )


def case(guidance: tuple[float, float], images: int) -> Case:
    """Denoise 4 channels at an eighth of the size, then decode: a step more than asked for, twice with guidance."""
    denoise = {"conv": f"{576 * images}*b*x*y", "attention": f"{64 * images}*b*x^2*y^2", "norm": f"{images}*b*x*y"}
    program = Program(
        (
            Segment((Slot(0, 0),), ONCE),
            Segment((Slot(0, 1),), Length("r1", ("steps",), 1, 0, 1)),
            Segment((Slot(1, None),), ONCE),
        )
    )
    return Case(
        guidance=guidance,
        tokens=None,
        ranges={"height": Range(8, 512, 8), "width": Range(8, 512, 8), "batch": Range(1, 16), "steps": Range(2, 100)},
        sizes=None,
        lengths=(Length("y", ("height",), 1, 0, 8), Length("x", ("width",), 1, 0, 8), Length("b", ("batch",))),
        calls=(
            call("unet", "forward", denoise, [f"{images}*b", "4", "y", "x"]),
            call("vae", "decode", {"conv": "1000*b*x*y"}, ["b", "4", "y", "x"]),
        ),
        programs={"PNDMScheduler": program},
        steps_run={"PNDMScheduler": Length("steps_run", ("steps",))},
        input_shape=(P("b"), P("3"), P("8*y"), P("8*x")),
        latent_shape=(P("b"), P("4"), P("y"), P("x")),
        denoiser_batch=P(f"{images}*b"),
        proof=Proof(({"height": 8},), ({"height": 16}, {"height": 24}), 2),
    )


def toy() -> Formula:
    """Guidance off up to 1, on above."""
    return Formula(
        name="Toy",
        defaults={"steps": 10, "guidance_scale": 5.0, "height": 64, "width": 64, "batch": 1},
        guidance_argument="guidance_scale",
        parts={"unet": Part("ToyUNet", 1000, "float32"), "vae": Part("ToyVAE", 500, "float32")},
        denoisers=("unet",),
        cases=(case((0.0, 1.0), 1), case((1.0000000000000002, 20.0), 2)),
        conditions=CONDITIONS,
    )
