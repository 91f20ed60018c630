"""Without thop every way of profiling says what to install, and an image is made all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = r"""
import json, logging, sys

class NoThop:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "thop":
            raise ModuleNotFoundError("No module named 'thop'", name="thop")

sys.meta_path.insert(0, NoThop())
from diffmeter import create_profiler, dry_run, generate_image, observe
from diffmeter.errors import DiffmeterError
from tests.zoo import ZOO

pipe = ZOO["StableDiffusionPipeline"].build()
pipe.set_progress_bar_config(disable=True)

def reason(function):
    try:
        return function()
    except DiffmeterError as error:
        return str(error)

def observed(hook):
    handle = pipe.unet.register_forward_hook(lambda *args: None) if hook else None
    with observe(pipe) as run:
        images = pipe("x", num_inference_steps=1, height=32, width=32).images
    assert len(images) == 1
    if handle is not None:
        handle.remove()
    return reason(lambda: run.profile.uncounted[0]["reason"])

found = {
    "observed": observed(hook=False),
    "counted in the run": observed(hook=True),
    "dry": reason(lambda: dry_run(pipe, prompt="x", num_inference_steps=1).uncounted[0]["reason"]),
    "dictionary": create_profiler().profile_pipeline(pipe, (1, 3, 32, 32), 1)["reason"],
    "generated": generate_image("diffmeter/shapes", "x", num_inference_steps=1, output_dir=sys.argv[1],
                                print_profile=False).profiling_data["reason"],
}
print(json.dumps(found))
"""


def test_every_reason_is_the_same_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found.values()) == {"thop is not installed. Install with: pip install thop"}, found
    assert "thop is not installed. Install with: pip install thop" in done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 1
