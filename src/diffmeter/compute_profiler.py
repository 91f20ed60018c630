"""The profiler: an object, a pipeline's profile as a dictionary, and MACs by component.

Everything here stands on dry runs: the pipeline's own code is run with stand-ins, nothing is computed on the
device and the pipeline is left as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from diffmeter.errors import DiffmeterError, InputError, whole_number
from diffmeter.metering.counters.attention_wrapper import (
    _sdpa_macs_counter as _sdpa_macs_counter,
)
from diffmeter.metering.counters.attention_wrapper import (
    _unwrap_sdpa as _unwrap_sdpa,
)
from diffmeter.metering.counters.attention_wrapper import (
    _wrap_sdpa_for_macs as _wrap_sdpa_for_macs,
)
from diffmeter.metering.counters.attention_wrapper import (
    sdpa_flops as sdpa_flops,
)
from diffmeter.metering.pipelines.roles import decodes, is_text_encoder
from diffmeter.profile import ComponentProfile, ComputeProfile, disabled_profile, shapes_as_tuples
from diffmeter.units import format_count, format_count_in

logger = logging.getLogger(__name__)


def create_profiler(enabled: bool = True) -> ComputeProfiler:
    """A profiler; with ``enabled=False`` its :meth:`~ComputeProfiler.profile_pipeline` says so and does nothing."""
    return ComputeProfiler(enabled)


class ComputeProfiler:
    """Measures what a loaded pipeline would cost. See :func:`create_profiler`."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def profile_pipeline(
        self,
        pipe: Any,
        input_shape: tuple[int, int, int, int] = (1, 3, 512, 512),
        num_inference_steps: int = 50,
        model_id: str | None = None,
        **call_arguments: Any,
    ) -> dict[str, Any]:
        """The profile of one generation, as the dictionary that is written into JSON files.

        Args:
            pipe: a loaded diffusers pipeline; it is left as it is.
            input_shape: (images, 3, height, width) of the images to be made.
            num_inference_steps: steps of the generation.
            model_id: what to call the model in the profile.
            call_arguments: anything else for the pipeline's call, such as ``guidance_scale``.

        Returns:
            The keys of :meth:`ComputeProfile.to_dict`, with ``input_shape`` and ``latent_shape`` as tuples, which JSON
            files hold as lists. A profile that cannot be made has ``enabled`` false and a
            ``reason``: it never ends a generation.

        Raises:
            InputError: a shape or a number of steps that no pipeline could take.
        """
        batch, height, width = _checked_shape(input_shape)
        num_inference_steps = whole_number(num_inference_steps, "the number of inference steps")
        if not self.enabled:
            return disabled_profile("the profiler is switched off")
        arguments = _with_steps(num_inference_steps, call_arguments)
        try:
            profile = profile_call(pipe, height, width, batch, arguments, model_id)
        except DiffmeterError as error:
            logger.warning("%s was not profiled: %s", model_id or type(pipe).__name__, error)
            return disabled_profile(str(error))
        return shapes_as_tuples(profile.to_dict())

    def summarize_macs(
        self,
        pipe: Any,
        height: int | None = None,
        width: int | None = None,
        steps: int = 50,
        prompt: str = "",
        guidance_scale: float | None = None,
    ) -> MacsSummary:
        """:func:`summarize_macs`."""
        return summarize_macs(pipe, height, width, steps, prompt, guidance_scale)

    def measure_unet_macs(self, pipe: Any, height: int | None = None, width: int | None = None, **call: Any) -> int:
        """:func:`measure_unet_macs`."""
        return measure_unet_macs(pipe, height, width, **call)

    def measure_text_encoder_macs(self, pipe: Any, prompt: str = "", **call: Any) -> int:
        """:func:`measure_text_encoder_macs`."""
        return measure_text_encoder_macs(pipe, prompt, **call)

    def measure_vae_decode_macs(
        self, pipe: Any, height: int | None = None, width: int | None = None, **call: Any
    ) -> int:
        """:func:`measure_vae_decode_macs`."""
        return measure_vae_decode_macs(pipe, height, width, **call)


def summarize_macs(
    pipe: Any,
    height: int | None = None,
    width: int | None = None,
    steps: int = 50,
    prompt: str = "",
    guidance_scale: float | None = None,
) -> MacsSummary:
    """MACs of one generation by component, for ``print(summary)`` and for programs.

    Args:
        pipe: a loaded diffusers pipeline; it is left as it is.
        height, width: pixels; None: the pipeline's default.
        steps: number of steps.
        prompt: the text; it decides the cost only where text encoders do not pad.
        guidance_scale: None: the pipeline's default. It decides whether guidance doubles the denoiser's work.

    Raises:
        InputError: an argument that the pipeline does not accept.
        DiffmeterError: the pipeline cannot be run dry.
    """
    steps = whole_number(steps, "the number of inference steps")
    arguments: dict[str, Any] = {"num_inference_steps": steps, "prompt": prompt}
    if guidance_scale is not None:
        arguments["guidance_scale"] = guidance_scale
    return MacsSummary(profile_call(pipe, height, width, 1, arguments), steps)


def measure_unet_macs(pipe: Any, height: int | None = None, width: int | None = None, **call: Any) -> int:
    """MACs (``total_macs``) of the denoiser, UNet or transformer, in the first step at a size in pixels.

    Guidance counts as the pipeline does it: a doubled batch or a second call. ``guidance_scale=1`` switches it off
    where the pipeline has classifier-free guidance.

    Raises:
        InputError: an argument that the pipeline does not accept.
        DiffmeterError: the pipeline cannot be run dry, or its denoiser cannot be counted.
    """
    profile = profile_call(pipe, height, width, 1, _with_steps(2, call))
    macs = [
        profile.components[entry.component].calls[entry.call].total_macs
        for entry in profile.timeline
        if entry.component in profile.denoisers and entry.step in (0, None)
    ]
    return _known(macs, profile, "the denoiser")


def measure_text_encoder_macs(pipe: Any, prompt: str = "", **call: Any) -> int:
    """MACs (``total_macs``) of every call of every text encoder in one generation.

    Raises:
        InputError: an argument that the pipeline does not accept.
        DiffmeterError: the pipeline cannot be run dry, or a text encoder cannot be counted.
    """
    profile = profile_call(pipe, None, None, 1, {"prompt": prompt, **_with_steps(2, call)})
    return _known([c.total_macs for c in text_encoders(profile)], profile, "a text encoder")


def measure_vae_decode_macs(pipe: Any, height: int | None = None, width: int | None = None, **call: Any) -> int:
    """MACs (``total_macs``) of turning the latents of one generation into images of a size in pixels.

    Raises:
        InputError: an argument that the pipeline does not accept.
        DiffmeterError: the pipeline cannot be run dry, or its decoder cannot be counted.
    """
    profile = profile_call(pipe, height, width, 1, _with_steps(2, call))
    return _known(decoder_macs(profile), profile, "the VAE decoder")


def profile_call(
    pipe: Any,
    height: int | None,
    width: int | None,
    batch: int,
    arguments: Mapping[str, Any],
    model_id: str | None = None,
) -> ComputeProfile:
    """A dry run with size and batch given the way the pipeline takes them; what it does not take is left out."""
    from diffmeter.metering.pipelines.call import call_of
    from diffmeter.metering.pipelines.sizes import with_both_sides
    from diffmeter.metering.recording.dry_run import run_dry

    call = call_of(pipe, model_id)
    sides = with_both_sides({"height": height, "width": width})
    wanted = {**sides, **arguments}
    fixed = [name for name in _LEFT_OUT if not call.understands(name)]
    given = {name: value for name, value in wanted.items() if value is not None and name not in fixed}
    return run_dry(pipe, {"batch": batch, **given} if batch > 1 else given, model_id=model_id)


#: what every pipeline is asked with here, and is left out where a pipeline has no say in it
_LEFT_OUT = ("height", "width", "prompt", "num_inference_steps")


def text_encoders(profile: ComputeProfile) -> list[ComponentProfile]:
    """The components that read the prompt."""
    return [c for name, c in profile.components.items() if is_text_encoder(name) and c.calls]


def decoder_macs(profile: ComputeProfile) -> list[int | None]:
    """``total_macs`` of every decoding call of the components that are no denoisers."""
    return [
        call.times("total_macs")
        for name, component in profile.components.items()
        if name not in profile.denoisers
        for call in component.calls
        if decodes(call.method)
    ]


def _known(macs: list[int | None], profile: ComputeProfile, what: str) -> int:
    if not macs:
        raise DiffmeterError(f"{profile.conditions.pipeline} never entered {what} in its dry run.")
    known = [m for m in macs if m is not None]
    if len(known) < len(macs):
        reasons = "; ".join(str(entry.get("reason") or entry.get("op")) for entry in profile.uncounted)
        raise DiffmeterError(f"{what} of {profile.conditions.pipeline} could not be counted: {reasons}.")
    return sum(known)


class MacsSummary(dict[str, Any]):
    """MACs of a generation by component: a dictionary that prints as a table.

    Keys: ``denoiser`` (its name), ``unet_macs_per_step``, ``unet_macs`` (all steps), ``text_encoder_macs``,
    ``vae_decoder_macs``, ``other_macs``, ``total_macs``, ``total_flops``, ``matmul_macs``, ``steps``, ``percent`` (by
    component), ``complete``, and ``total_macs_str``. The key says ``unet`` for transformers as well.
    """

    def __init__(self, profile: ComputeProfile, steps: int) -> None:
        denoiser = sum(profile.components[name].total_macs or 0 for name in profile.denoisers)
        text = sum(c.total_macs or 0 for c in text_encoders(profile))
        decoder = sum(macs or 0 for macs in decoder_macs(profile))
        total = profile.total_macs
        parts = {
            "unet": denoiser,
            "text_encoder": text,
            "vae_decoder": decoder,
            "other": total - denoiser - text - decoder,
        }
        super().__init__(
            denoiser=" + ".join(profile.denoisers),
            unet_macs_per_step=profile.macs_per_step,
            **{f"{name}_macs": macs for name, macs in parts.items()},
            total_macs=total,
            total_macs_str=format_count(total, "MACs"),
            total_flops=profile.total_flops,
            matmul_macs=profile.matmul_macs,
            steps=steps,
            percent={name: 100 * macs / total if total else 0.0 for name, macs in parts.items()},
            complete=profile.complete,
        )
        self.profile = profile

    def __str__(self) -> str:
        name = {"unet": "UNet", "transformer": "Transformer"}.get(self["denoiser"], self["denoiser"] or "Denoiser")
        rows = [
            (f"{name} (per step):", self["unet_macs_per_step"]),
            ("Text Encoder (once):", self["text_encoder_macs"]),
            ("VAE Decoder (once):", self["vae_decoder_macs"]),
        ]
        shares = [(f"{name}:", "unet"), ("Text Encoder:", "text_encoder"), ("VAE Decoder:", "vae_decoder")]
        if self["other_macs"]:
            rows.append(("Other components:", self["other_macs"]))
            shares.append(("Other components:", "other"))
        rule = "-" * 70
        lines = ["Component-wise MACs Breakdown:", rule]
        lines += [f"  {label:<24}{format_count_in(macs, 'MACs', 'G'):>15}" for label, macs in rows]
        total = f"Total ({self['steps']} steps):"
        lines += [rule, f"  {total:<24}{format_count_in(self['total_macs'], 'MACs', 'G'):>16}"]
        lines += ["", "Percentage Breakdown:", rule]
        lines += [f"  {label:<15}{self['percent'][key]:6.2f}%" for label, key in shares]
        lines.append(rule)
        if not self["complete"]:
            from diffmeter.reports.profile_tables import completeness

            lines.append(f"Complete: {completeness(self.profile)}")
        return "\n".join(lines)


def _checked_shape(shape: Any) -> tuple[int, int, int]:
    try:
        batch, channels, height, width = (int(size) for size in shape)
    except (TypeError, ValueError):
        raise InputError(f"input_shape must be (images, 3, height, width), not {shape!r}.") from None
    if channels != 3 or min(batch, height, width) < 1:
        raise InputError(f"input_shape must be (images, 3, height, width) of at least 1 each, not {tuple(shape)!r}.")
    return batch, height, width


def _with_steps(steps: int, call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, with its steps where it names none, by either name."""
    return dict(call) if "steps" in call else {"num_inference_steps": steps, **call}
