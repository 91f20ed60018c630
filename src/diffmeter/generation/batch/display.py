"""What the command line shows of a batch: text made safe for a terminal, and progress by compute."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffmeter.rendering import printable
from diffmeter.units import format_count, format_seconds

from .plan import Costs
from .runner import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from diffmeter.generation.request import GenerationRequest


def silence_loading_bars() -> None:
    """Turn off the bars that diffusers, transformers and the hub draw while they load: they break other output."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # exported all the same
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()


class BatchProgress(Progress):
    """Bars on a terminal: the whole share of this process by compute, and the current image by steps."""

    def __init__(self, todo: Sequence[GenerationRequest], costs: Costs, console: Console) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._weights = costs.weights(todo)
        # Generations whose cost is unknown still move the bar; figures in MACs are then only shown for the known.
        self._macs = costs.macs
        self._total = sum(self._weights.values()) or 1.0
        self._count = len(todo)
        self._done = 0
        self._done_weight = 0.0
        self._done_macs = 0
        self._total_macs = costs.total(todo)
        self._busy_seconds = 0.0
        self._started = 0.0
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), console=console
        )
        self._overall = self._bars.add_task("batch", total=self._total, note="")
        self._image = self._bars.add_task("image", total=None, note="")

    def __enter__(self) -> BatchProgress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def loading(self, model_id: str) -> None:
        """A model is about to be loaded."""
        self._bars.update(self._image, description=f"loading {_markup(model_id)}", total=None, completed=0, note="")

    def started(self, request: GenerationRequest) -> None:
        """A generation begins: the second bar starts anew."""
        self._started = time.monotonic()
        self._bars.update(
            self._image,
            description=_markup(request.model_id),
            total=request.num_inference_steps,
            completed=0,
            note=f"seed {request.seed}",
        )

    def step(self, number: int) -> None:
        """A denoising step has ended."""
        self._bars.update(self._image, completed=number)

    def finished(self, request: GenerationRequest, record: Mapping[str, Any]) -> None:
        """A generation is done: the first bar moves by its share of the compute."""
        self._busy_seconds += time.monotonic() - self._started
        self._done_weight += self._weights.get(request.key, 0.0)
        self._advance(request)

    def failed(self, request: GenerationRequest, reason: str) -> None:
        """A generation failed: its reason is printed above the bars, and its compute is no longer expected."""
        self._bars.console.print(f"[red]failed[/red] {_markup(request.model_id)}: {_markup(reason, 200)}")
        self._total -= self._weights.get(request.key, 0.0)
        self._advance(request)

    def _advance(self, request: GenerationRequest) -> None:
        self._done += 1
        self._done_macs += self._macs.get(request.key, 0)
        self._bars.update(self._overall, completed=self._done_weight, total=self._total, note=self._note())

    def _note(self) -> str:
        parts = [f"{self._done}/{self._count} images"]
        if self._total_macs:
            left = max(0, self._total_macs - self._done_macs)
            parts.append(f"{format_count(self._done_macs, 'MACs')} done, {format_count(left, 'MACs')} to go")
        if self._done_weight:
            remaining = self._busy_seconds * max(0.0, self._total - self._done_weight) / self._done_weight
            parts.append(f"about {format_seconds(round(remaining))} left")
        return ", ".join(parts)


def _markup(text: str, longest: int = 60) -> str:
    from rich.markup import escape

    return escape(printable(text, longest))
