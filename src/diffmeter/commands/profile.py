"""``diffmeter profile``: what a generation would cost, from the model's configuration alone."""

from __future__ import annotations

import sys

from . import _options
from ._console import Form, progress

EXAMPLES = [
    "diffmeter profile sd15",
    "diffmeter profile sdxl --height 1024 --steps 30 --batch 4",
    "diffmeter profile model.safetensors --lora style.safetensors:0.8",
    "diffmeter profile sd15 --scheduler EulerDiscrete --set clip_skip=2",
    "diffmeter profile sd15 --convention paper --per forward --format latex",
    "diffmeter profile sd15 --depth 2",
]


def run(
    model: _options.Model,
    height: _options.Height = None,
    width: _options.Width = None,
    steps: _options.Steps = None,
    guidance: _options.Guidance = None,
    batch: _options.Batch = None,
    frames: _options.Frames = None,
    prompt: _options.Prompt = None,
    tokens: _options.Tokens = None,
    revision: _options.Revision = None,
    variant: _options.Variant = None,
    config: _options.Config = None,
    image_size: _options.ImageSize = None,
    strength: _options.Strength = None,
    lora: _options.Lora = None,
    fuse_lora: _options.FuseLora = False,
    controlnet: _options.ControlNet = None,
    ip_adapter: _options.IpAdapter = None,
    t2i_adapter: _options.T2iAdapter = None,
    vae: _options.Vae = None,
    scheduler: _options.Scheduler = None,
    settings: _options.Set = None,
    dry_run: _options.DryRun = False,
    convention: _options.Convention = None,
    per: _options.Per = None,
    depth: _options.Depth = None,
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    caption: _options.Caption = None,
    label: _options.Label = None,
    output_format: _options.Format = "table",
    as_json: _options.AsJson = False,
) -> None:
    """Show what a generation costs, by component and in total, without its weights."""
    form = Form.of(
        output_format,
        as_json,
        convention=convention,
        per=per,
        depth=depth,
        columns=columns,
        sort=sort,
        caption=caption,
        label=label,
    )
    with progress(f"Counting {model} without its weights"):
        from diffmeter.formulas.library import Answers

        put_on = (lora, fuse_lora, controlnet, t2i_adapter, ip_adapter, vae, scheduler)
        changes = None
        if any(put_on):  # what knows adapters loads torch
            from diffmeter.models.adapters import Changes, parse_lora

            changes = Changes(
                loras=tuple(map(parse_lora, lora or ())),
                fuse_loras=fuse_lora,
                controlnets=tuple(controlnet or ()),
                t2i_adapter=t2i_adapter,
                ip_adapters=tuple(ip_adapter or ()),
                vae=vae,
                scheduler=scheduler,
            )
        given = _options.call_arguments(settings)
        given |= {} if strength is None else {"strength": strength}
        answers = Answers(
            model,
            token_count=tokens,
            dry_run=dry_run or depth is not None,  # a formula knows components, and no modules
            revision=revision,
            variant=variant,
            config=config,
            changes=changes,
        )
        profile = answers.profile(
            height=height,
            width=width,
            steps=steps,
            guidance_scale=guidance,
            batch=batch,
            num_frames=frames,
            prompt=prompt,
            image_size=image_size,
            **given,
        )
    for remark in answers.remarks:
        print(f"diffmeter: {remark}", file=sys.stderr)
    form.write(profile)
