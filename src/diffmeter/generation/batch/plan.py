"""Who generates what: what each generation costs, and how the work is split among processes."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffmeter.errors import one_line
from diffmeter.generation.request import GenerationRequest

logger = logging.getLogger(__name__)

# A split whose busiest process has at most this many times the work of a perfect one is good enough to keep the
# generations of one model together.
_GOOD_BALANCE = 1.1


@dataclass
class Costs:
    """MACs of each generation by its key, as far as they are known, and why the others are not."""

    macs: dict[str, int] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Reason by model id."""

    def total(self, requests: Sequence[GenerationRequest]) -> int:
        """MACs of all the requests whose cost is known."""
        return sum(self.macs.get(request.key, 0) for request in requests)

    def unknown(self, requests: Sequence[GenerationRequest]) -> int:
        """How many of the requests have no known cost."""
        return sum(request.key not in self.macs for request in requests)

    def weights(self, requests: Sequence[GenerationRequest]) -> dict[str, float]:
        """A cost for every request: its MACs, or for an unknown one pixels x steps at the rate of the known ones."""
        known = [request for request in requests if request.key in self.macs]
        rough = {request.key: _rough_cost(request) for request in requests}
        rough_total = sum(rough[request.key] for request in known)
        rate = self.total(known) / rough_total if known and rough_total else 1.0
        return {
            request.key: float(self.macs[request.key]) if request.key in self.macs else rough[request.key] * rate
            for request in requests
        }


def _rough_cost(request: GenerationRequest) -> float:
    """Grows as the denoiser's work does, but for attention: only good for comparing requests without a count."""
    pixels = (request.width or 512) * (request.height or 512)
    return float(pixels * (request.num_inference_steps or 50))


def estimate_costs(
    requests: Sequence[GenerationRequest],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Costs:
    """Count each generation by a dry run; those that differ only in prompt and seed share one.

    A model that cannot be counted is named in ``problems``; nothing is raised for it. ``on_progress(done, of)`` is
    called after each dry run.
    """
    from diffmeter.metering.recording import dry_run as dryrun

    groups: dict[tuple[Any, ...], list[GenerationRequest]] = {}
    for request in requests:
        groups.setdefault(_cost_signature(request), []).append(request)
    costs = Costs()
    runs: dryrun.ModelDryRuns | None = None  # of one model at a time: its counts serve all its sizes and steps
    for number, group in enumerate(sorted(groups.values(), key=lambda group: group[0].model_id), start=1):
        request = group[0]
        if request.model_id not in costs.problems:
            try:
                if runs is None or runs.source.name != request.model_id:
                    runs = dryrun.ModelDryRuns(request.model_id)
                macs = runs.dry_run(**dry_run_arguments(request)).total_macs
                costs.macs.update((same.key, int(macs)) for same in group)
            except Exception as error:
                # The generation itself will say whether this model works; here only its cost stays unknown.
                logger.info("no dry run for %s: %s", request.model_id, error)
                costs.problems[request.model_id] = one_line(error)
        if on_progress is not None:
            on_progress(number, len(groups))
    return costs


def dry_run_arguments(request: GenerationRequest) -> dict[str, Any]:
    """The call arguments of ``dry_run`` for a request."""
    arguments = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "height": request.height,
        "width": request.width,
        "steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _cost_signature(request: GenerationRequest) -> tuple[Any, ...]:
    return (
        request.model_id,
        request.width,
        request.height,
        request.num_inference_steps,
        request.guidance_scale,
        bool(request.negative_prompt),
    )


def group_by_model(requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    """The requests with those of one model together, models in order of first appearance."""
    first: dict[str, int] = {}
    for request in requests:
        first.setdefault(request.model_id, len(first))
    return sorted(requests, key=lambda request: first[request.model_id])


def split(
    requests: Sequence[GenerationRequest], weights: Mapping[str, float], count: int
) -> list[list[GenerationRequest]]:
    """Divide the requests among ``count`` processes by weight, keeping the generations of a model together.

    Longest processing time first: pieces of work, largest first, each to the process with the least so far
    (Graham 1969: at most 4/3 - 1/(3 count) of the best split's time for single generations). Pieces are whole models
    as long as that balances within 10%, else halves and so on down to single generations. The same input gives the
    same split on every machine.
    """
    if count <= 1:
        return [group_by_model(requests)]
    total = sum(weights[request.key] for request in requests)
    floor = max([total / count, *(weights[request.key] for request in requests)]) if requests else 0.0
    pieces_per_share = 1
    while True:
        bins, busiest = _assign(_pieces(requests, weights, floor / pieces_per_share), weights, count)
        single = pieces_per_share > len(requests)
        if busiest <= floor * _GOOD_BALANCE or single:
            order = {request.key: number for number, request in enumerate(requests)}
            return [group_by_model(sorted(part, key=lambda request: order[request.key])) for part in bins]
        pieces_per_share *= 2


def _pieces(
    requests: Sequence[GenerationRequest], weights: Mapping[str, float], most: float
) -> list[list[GenerationRequest]]:
    """Runs of one model's requests of at most ``most`` together (or one request)."""
    pieces: list[list[GenerationRequest]] = []
    load = 0.0
    for request in group_by_model(requests):
        weight = weights[request.key]
        if pieces and pieces[-1][0].model_id == request.model_id and load + weight <= most:
            pieces[-1].append(request)
            load += weight
        else:
            pieces.append([request])
            load = weight
    return pieces


def _assign(
    pieces: Sequence[list[GenerationRequest]], weights: Mapping[str, float], count: int
) -> tuple[list[list[GenerationRequest]], float]:
    """Largest piece first to the least loaded process; also the load of the busiest."""
    sized = [(sum(weights[request.key] for request in piece), number) for number, piece in enumerate(pieces)]
    loads = [(0.0, rank) for rank in range(count)]
    bins: list[list[GenerationRequest]] = [[] for _ in range(count)]
    for weight, number in sorted(sized, key=lambda item: (-item[0], item[1])):
        load, rank = heapq.heappop(loads)
        bins[rank].extend(pieces[number])
        heapq.heappush(loads, (load + weight, rank))
    return bins, max(load for load, _ in loads)
