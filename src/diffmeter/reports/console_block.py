"""What ``generate_image`` prints about a generation: eight lines that people know from scripts and logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LINES = (
    ("Parameters", "params_str"),
    ("FLOPs (total)", "total_flops_str"),
    ("MACs (total)", "total_macs_str"),
    ("FLOPs/step", "flops_per_step_str"),
    ("MACs/step", "macs_per_step_str"),
    ("Steps", "num_inference_steps"),
)


def console_block(name: str, data: Mapping[str, Any]) -> str:
    """The block for a model's name and a ``compute_profile`` dictionary.

    Totals of an incomplete profile carry ``>=`` in the dictionary, and one line says what is missing. A profile that
    failed is one line with its reason.
    """
    name = "".join(character if character.isprintable() else "?" for character in name)
    if not data.get("enabled"):
        return f"⚠️  No compute profile for {name}: {data.get('reason')}"
    complete = data.get("complete", True)
    lines = [f"📊 Compute Profile for {name}:"]
    lines += [f"   {label}: {data.get(key)}" for label, key in _LINES]
    if not complete:
        reasons = [str(entry.get("reason") or entry.get("op")) for entry in data.get("uncounted", ())]
        lines.append(f"   Not complete: {'; '.join(reasons) or 'the two counters disagree'}")
    if data.get("inference_time_str") is not None:
        lines += ["", f"⏱️  Inference time: {data['inference_time_str']}"]
    return "\n".join(lines)
