"""Step caches by their schedule: which blocks of a denoiser run at which step, and what that costs.

Methods that reuse work from step to step (DeepCache, T-GATE, a cache of one's own) replace functions of the model, so
that a dry run cannot tell what they skip. A :class:`StepCache` says it: at some steps some modules are not run, and
what they returned at the last full step stands in for them. It is counted with those modules left out of the forward.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffmeter.errors import CountError, InputError, whole_number
from diffmeter.metering.counters.tally import Count
from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.twins.counts import TwinCounts
from diffmeter.metering.twins.replay import Replay
from diffmeter.metering.watching.signature import Frozen, TensorSpec, freeze, map_leaves
from diffmeter.metering.watching.snapshot import ModuleSnapshot


@dataclass(frozen=True, slots=True)
class Reuse:
    """Modules that are not run at some steps.

    Attributes:
        modules: their paths in the denoiser; ``*`` and ``?`` stand for any text and any character. What is inside a
            module is not run either.
        at: whether they are reused at a step, counted from 0.
        guided: whether guidance goes on at such a step; without it only half of the batch is computed.
    """

    modules: tuple[str, ...]
    at: Callable[[int], bool]
    guided: bool = True


@dataclass(frozen=True, slots=True)
class StepCache:
    """Which modules of a denoiser are reused at which step; ``first + second`` does both.

    >>> cache = StepCache.interval(3, "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1")
    >>> dry_run("sd15", steps=50, cache=cache).cached_steps
    """

    rules: tuple[Reuse, ...]

    @classmethod
    def interval(cls, every: int, *modules: str) -> StepCache:
        """A full step first and every ``every`` steps; the modules are reused at all others.

        Raises:
            InputError: ``every`` is no whole number of at least 1, or no module is named.
        """
        every = whole_number(every, "the interval of a step cache")
        return cls((Reuse(_named(modules), lambda step: step % every != 0),))

    @classmethod
    def after(cls, step: int, *modules: str, guided: bool = True) -> StepCache:
        """The modules are reused from ``step`` on.

        Raises:
            InputError: ``step`` is no whole number of at least 1 (the first step must be full), or no module is named.
        """
        first = whole_number(step, "the first step of a step cache")
        return cls((Reuse(_named(modules), lambda step: step >= first, guided),))

    @classmethod
    def at(cls, steps: Iterable[int], *modules: str) -> StepCache:
        """The modules are reused at the steps given, counted from 0.

        Raises:
            InputError: one is no whole number of at least 1 (the first step must be full), or no module is named.
        """
        chosen = frozenset(whole_number(step, "a step of a step cache") for step in steps)
        return cls((Reuse(_named(modules), chosen.__contains__),))

    @classmethod
    def deepcache(cls, config: Mapping[str, Any], interval: int, branch: int = 0) -> StepCache:
        """DeepCache on a U-Net of diffusers (Ma et al., arXiv:2312.00858).

        Between full steps only the outermost residual blocks run, down to the skip connection number ``branch``.

        Args:
            config: of the U-Net; its ``block_out_channels``, ``layers_per_block`` and types of blocks are read.
            interval: steps from one full step to the next.
            branch: 0 keeps the first pair of residual block and attention on the way down and the last on the way up.

        Raises:
            InputError: the U-Net's first block has no such pair.
        """
        levels, layers = len(config["block_out_channels"]), config.get("layers_per_block", 2)
        if not isinstance(layers, int) or not 0 <= whole_number(branch, "the branch of DeepCache", 0) < layers:
            raise InputError(f"the branch of DeepCache must be from 0 to {layers} - 1 for this U-Net, not {branch!r}.")
        last = levels - 1
        down, up = (_kinds(config[name][where]) for name, where in (("down_block_types", 0), ("up_block_types", -1)))
        skipped = [f"down_blocks.0.{kind}.{i}" for kind in down for i in range(branch + 1, layers)]
        skipped += ["down_blocks.0.downsamplers.0"] if last else []
        skipped += [f"down_blocks.{level}" for level in range(1, levels)]
        skipped += ["mid_block", *(f"up_blocks.{level}" for level in range(last))]
        skipped += [f"up_blocks.{last}.{kind}.{i}" for kind in up for i in range(layers - branch)]
        return cls.interval(interval, *skipped)

    @classmethod
    def tgate(cls, gate: int) -> StepCache:
        """T-GATE (Zhang et al., arXiv:2404.02747): from step ``gate`` on no guidance, and cross-attention reused."""
        return cls.after(gate, "*.attn2", guided=False)

    def __add__(self, other: StepCache) -> StepCache:
        return StepCache((*self.rules, *other.rules))

    def reused(self, step: int) -> tuple[tuple[str, ...], bool]:
        """The modules that are reused at a step, and whether it is guided."""
        rules = [rule for rule in self.rules if rule.at(step)]
        modules = dict.fromkeys(module for rule in rules for module in rule.modules)
        return tuple(modules), all(rule.guided for rule in rules)

    def counts(self, denoiser: nn.Module, *args: Any, steps: int, **kwargs: Any) -> list[Count]:
        """What a denoiser's call costs at each step: one count a step; equal steps are counted once.

        Args:
            denoiser: on any device, the meta device included; it is left as it is.
            *args: of its forward.
            **kwargs: of its forward.
            steps: number of steps.

        Raises:
            CountError: the forward cannot be counted.
            InputError: a module that is named is not in the denoiser.
        """
        arguments, counts = freeze(args, kwargs), CachedCounts(denoiser)
        found = []
        for step in range(whole_number(steps, "the number of steps")):
            _, replayed = counts.get(arguments, *self.reused(step))
            if replayed.problem is not None:
                raise CountError(replayed.problem)
            found.append(replayed.count)
        return found


def _kinds(block_type: str) -> tuple[str, ...]:
    return ("resnets", "attentions") if "Attn" in block_type else ("resnets",)


def _named(modules: tuple[str, ...]) -> tuple[str, ...]:
    if not modules or not all(isinstance(module, str) and module for module in modules):
        raise InputError("a step cache needs the paths of the modules that it reuses, such as 'mid_block'.")
    return modules


class CachedCounts:
    """Counts of one denoiser with some of its modules reused, each signature once."""

    def __init__(self, denoiser: nn.Module) -> None:
        self._source = denoiser
        self._known: dict[tuple[Any, tuple[str, ...]], TwinCounts] = {}

    def get(self, arguments: Frozen, modules: tuple[str, ...], guided: bool = True) -> tuple[Frozen, Replay]:
        """The arguments of a call as it is computed, and its replay.

        Raises:
            CountError: it cannot be counted.
            InputError: a module that is named is not there.
        """
        if not guided:
            arguments = _half(arguments)
        known = self._known.get((arguments.key, modules))
        if known is None:
            known = self._known[arguments.key, modules] = self._without(modules, arguments)
        return arguments, known.get("forward", arguments)

    def _without(self, modules: tuple[str, ...], arguments: Frozen) -> TwinCounts:
        """The counts of a twin in which modules return what they returned in a full forward with these arguments."""
        twin = build_twin(ModuleSnapshot(self._source))
        returned: dict[str, list[Any]] = {path: [] for path in _outermost(twin, modules)}
        handles = []
        for path, outputs in returned.items():

            def keep(_module: Any, _args: Any, output: Any, outputs: list[Any] = outputs) -> None:
                outputs.append(map_leaves(output, torch.Tensor, _empty_like))

            handles.append(twin.get_submodule(path).register_forward_hook(keep))
        if returned:
            TwinCounts(twin).get("forward", arguments)
        for handle in handles:
            handle.remove()
        for path, outputs in returned.items():
            parent, _, name = path.rpartition(".")
            inside = twin.get_submodule(parent)
            inside.add_module(name, _Reused(twin.get_submodule(path), outputs))
        return TwinCounts(twin)


class _Reused(nn.Module):
    """Stands where a module stood: returns what that returned, and answers what is asked of its attributes."""

    def __init__(self, original: nn.Module, outputs: list[Any]) -> None:
        super().__init__()
        self.__dict__.update(_original=original, _outputs=outputs, _next=0)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        outputs = self.__dict__["_outputs"]
        if not outputs:
            raise CountError(f"{type(self.__dict__['_original']).__name__} was not run by the full forward")
        output = outputs[self.__dict__["_next"] % len(outputs)]
        self.__dict__["_next"] += 1
        return map_leaves(output, torch.Tensor, _empty_like)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_original"], name)


def _empty_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _outermost(denoiser: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """The paths that the patterns match, without those inside another one."""
    paths = [path for path, _ in denoiser.named_modules() if path]
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter(paths, pattern)
        if not matches:
            raise InputError(f"{type(denoiser).__name__} has no module {pattern!r} that a step cache could reuse.")
        found.update(dict.fromkeys(matches))
    inside = [path for path in found if any(path.startswith(f"{other}.") for other in found)]
    return [path for path in found if path not in inside]


def _half(arguments: Frozen) -> Frozen:
    """The arguments of a guided call for the conditional half of its batch, which comes second."""
    batch = next((spec.shape[0] for spec in arguments.tensors if len(spec.shape) > 1), 0)
    if batch < 2 or batch % 2:
        return arguments

    def second(_index: int, spec: TensorSpec) -> torch.Tensor:
        known = spec.known()
        tensor = torch.empty(spec.shape, dtype=spec.dtype, device="meta") if known is None else known
        return tensor[batch // 2 :] if spec.shape and spec.shape[0] == batch else tensor

    args, kwargs = arguments.thaw(second)
    return freeze(args, kwargs)
