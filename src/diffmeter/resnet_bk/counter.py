"""Closed-form FLOPs of one training step of ResNet-BK: forward, backward and optimizer, by component.

All formulas are the design's, with B sequences of N tokens, width D, E experts of which K are visited, V tokens in
the vocabulary, and 2 FLOPs for a multiply-add:

| part | forward | backward |
| --- | --- | --- |
| BK-Core, a sequence | 34 N: theta and phi 14 N each, division 6 N | 26 N: G^2 6 N, two gradients 10 N each |
| mixture of experts, a token | gate 2 D E, softmax 3 E, experts K (8 D^2 + 2 D) | twice the forward |
| linear layer | 2 B N in out | twice the forward |
| LayerNorm | 5 B N D | twice the forward |
| embedding | B N D: the position is added | twice the forward |
| optimizer | - | operations for each trained parameter, :data:`OPTIMIZER_OPS` |

What the implementation in :mod:`..models` really does differs in the elementwise part only (``docs/COUNTERS.md``);
the products are those that an op-level counter finds, forward and backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError, whole_number
from diffmeter.flops import FlopsItem, Kind, QwenConfig, flops_qwen_model
from diffmeter.units import format_count, format_integer, format_percent

if TYPE_CHECKING:
    from torch import nn

#: Operations for each trained parameter and step.
#: sgd: p -= lr * g (2). momentum: v = mu * v + g (2), p -= lr * v (2).
#: adam: first moment 3, second moment 4, bias corrections 2, p -= lr * m / (sqrt(v) + eps) 5.
#: adamw: one more, p *= 1 - lr * decay. (Some tables group the same 15 as 3 + 4 + 4 + 4.)
OPTIMIZER_OPS: Mapping[str, int] = {"sgd": 2, "momentum": 4, "adam": 14, "adamw": 15}
_OPTIMIZER_ALIASES = {"momentum_sgd": "momentum", "sgd_momentum": "momentum", "momentum sgd": "momentum"}

BK_CORE_FORWARD_OPS = 14 + 14 + 6  # for each token: theta, phi, division
BK_CORE_BACKWARD_OPS = 6 + 2 * 10  # for each token: G^2, two gradients
LAYER_NORM_OPS = 5  # for each element: mean, variance, normalize, scale, shift
SOFTMAX_OPS = 3  # for each element: exponential, sum, division


def optimizer_name(name: str) -> str:
    """The key of :data:`OPTIMIZER_OPS` that ``name`` means.

    Raises:
        InputError: there is no such optimizer.
    """
    key = str(name).lower().replace("-", "_")
    key = _OPTIMIZER_ALIASES.get(key, key)
    if key not in OPTIMIZER_OPS:
        raise InputError(f"unknown optimizer {name!r}: use one of {', '.join(OPTIMIZER_OPS)}")
    return key


@dataclass
class FLOPsCount:
    """FLOPs of a training step. Counts add up, scale with a whole or fractional factor, and can be changed.

    >>> count = FLOPsCount()
    >>> count.forward += 1000
    """

    forward: int = 0
    backward: int = 0
    optimizer: int = 0

    @property
    def total(self) -> int:
        """Forward, backward and optimizer together."""
        return self.forward + self.backward + self.optimizer

    def __add__(self, other: FLOPsCount) -> FLOPsCount:
        if not isinstance(other, FLOPsCount):
            return NotImplemented
        return FLOPsCount(
            self.forward + other.forward, self.backward + other.backward, self.optimizer + other.optimizer
        )

    def __radd__(self, other: object) -> FLOPsCount:
        # sum() starts from 0
        return self if other == 0 else NotImplemented

    def __mul__(self, factor: float) -> FLOPsCount:
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            return NotImplemented
        if not 0 <= factor < float("inf"):
            raise InputError(f"a count can be scaled by a finite number of at least 0, got {factor!r}")
        return FLOPsCount(*(_scaled(n, factor) for n in (self.forward, self.backward, self.optimizer)))

    __rmul__ = __mul__

    def to_dict(self) -> dict[str, int]:
        """Plain JSON values, with the total."""
        return {"forward": self.forward, "backward": self.backward, "optimizer": self.optimizer, "total": self.total}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FLOPsCount:
        """The count that :meth:`to_dict` wrote."""
        return cls(int(data["forward"]), int(data["backward"]), int(data["optimizer"]))


def _scaled(n: int, factor: float) -> int:
    # a whole factor stays exact however large the count; only a fractional one goes through floating point
    return n * factor if isinstance(factor, int) else round(n * factor)


class FLOPsCounter:
    """Counts the FLOPs of one training step of a :class:`~..models.configurable_resnet_bk.ConfigurableResNetBK`.

    >>> counter = FLOPsCounter(model, batch_size=32, seq_len=128)
    >>> counter.count_total_flops().total

    Nothing is run: the numbers come from the model's sizes. ``seq_len`` may exceed the model's ``n_seq``, which
    limits the forward but not the formulas.

    Args:
        model: the model; its ``config`` gives the sizes and its parameters the optimizer's work.
        batch_size: sequences B.
        seq_len: tokens N of each sequence.
        optimizer: a name of :data:`OPTIMIZER_OPS`.

    Raises:
        InputError: a size below 1, an unknown optimizer, or a model that is no ResNet-BK.
    """

    def __init__(self, model: nn.Module, batch_size: int, seq_len: int, optimizer: str = "adamw") -> None:
        batch_size, seq_len = whole_number(batch_size, "batch_size"), whole_number(seq_len, "seq_len")
        config = getattr(model, "config", None)
        if not all(hasattr(config, name) for name in ("d_model", "n_layers", "num_experts", "top_k", "vocab_size")):
            raise InputError(f"FLOPsCounter counts ResNet-BK models, got {type(model).__name__}")
        self.model = model
        self.batch_size = batch_size
        self.seq_len = seq_len
        self.optimizer = optimizer_name(optimizer)
        self.d_model: int = config.d_model  # type: ignore[union-attr]
        self.n_layers: int = config.n_layers  # type: ignore[union-attr]
        self.num_experts: int = config.num_experts  # type: ignore[union-attr]
        self.top_k: int = config.top_k  # type: ignore[union-attr]
        self.vocab_size: int = config.vocab_size  # type: ignore[union-attr]
        self.analytic_backward: bool = getattr(config, "analytic_backward", True)
        self.component_flops: dict[str, FLOPsCount] = {}

    @property
    def tokens(self) -> int:
        """Tokens of one batch."""
        return self.batch_size * self.seq_len

    def count_bk_core_flops(self) -> FLOPsCount:
        """BK-Core of one block: ``34*N`` forward and ``26*N`` backward for each of B sequences.

        A model with ``analytic_backward=False`` goes back through the recursions by autograd, which costs about
        twice the forward instead.
        """
        forward = BK_CORE_FORWARD_OPS * self.tokens
        backward = BK_CORE_BACKWARD_OPS * self.tokens if self.analytic_backward else 2 * forward
        return FLOPsCount(forward, backward)

    def count_moe_flops(self) -> FLOPsCount:
        """Mixture of experts of one block, for each token: gate ``2*D*E``, softmax ``3*E``, experts ``K*(8*D^2+2*D)``.

        An expert is a layer D to 2D, an activation (``2*D``) and a layer back. Backward is twice the forward.
        """
        return _with_backward(sum(item.flops for item in self._moe_items()))

    def count_linear_flops(self, in_features: int, out_features: int) -> FLOPsCount:
        """A linear layer on every token: ``2*B*N*in*out``; backward twice that (gradients of input and weight).

        Raises:
            InputError: a size below 1.
        """
        inputs, outputs = whole_number(in_features, "in_features"), whole_number(out_features, "out_features")
        return _with_backward(2 * self.tokens * inputs * outputs)

    def count_layernorm_flops(self) -> FLOPsCount:
        """One LayerNorm: ``5*B*N*D``; backward twice that."""
        return _with_backward(LAYER_NORM_OPS * self.tokens * self.d_model)

    def count_embedding_flops(self) -> FLOPsCount:
        """Token plus position embedding: ``B*N*D`` additions; backward adds each gradient into both tables."""
        return _with_backward(self.tokens * self.d_model)

    def count_block_flops(self) -> FLOPsCount:
        """One block: LayerNorm, mixture of experts, projection to the potential, BK-Core, output projection."""
        return (
            self.count_layernorm_flops()
            + self.count_moe_flops()
            + self.count_linear_flops(self.d_model, 1)
            + self.count_bk_core_flops()
            + self.count_linear_flops(2, self.d_model)
        )

    def count_forward_flops(self) -> FLOPsCount:
        """FLOPs of the forward pass alone; fills the breakdown."""
        return FLOPsCount(forward=sum(count.forward for count in self._count_components().values()))

    def count_backward_flops(self) -> FLOPsCount:
        """FLOPs of the backward pass alone; fills the breakdown."""
        return FLOPsCount(backward=sum(count.backward for count in self._count_components().values()))

    def count_optimizer_flops(self, optimizer: str | None = None) -> FLOPsCount:
        """Operations of one optimizer step over all trained parameters.

        Args:
            optimizer: another optimizer than the counter's.

        Raises:
            InputError: there is no such optimizer.
        """
        ops = OPTIMIZER_OPS[self.optimizer if optimizer is None else optimizer_name(optimizer)]
        return FLOPsCount(optimizer=ops * sum(_trained(self.model)))

    def count_total_flops(self, optimizer: str | None = None) -> FLOPsCount:
        """Forward, backward and optimizer step."""
        return self.count_forward_flops() + self.count_backward_flops() + self.count_optimizer_flops(optimizer)

    def get_breakdown(self) -> dict[str, dict[str, int]]:
        """FLOPs by component (embedding, each layer, final LayerNorm, LM head).

        Each value has ``forward``, ``backward``, ``optimizer`` and ``total``; columns add up to the totals.
        """
        return {name: count.to_dict() for name, count in self._count_components().items()}

    def forward_items(self) -> list[FlopsItem]:
        """The forward pass by operation, over all blocks: which FLOPs are products and which elementwise."""
        d, tokens = self.d_model, self.tokens
        block = [
            FlopsItem("blocks", "LayerNorm", "elementwise", self.count_layernorm_flops().forward),
            *self._moe_items(),
            FlopsItem("blocks", "potential projection", "product", 2 * tokens * d),
            FlopsItem("blocks", "BK-Core theta recursion", "elementwise", 14 * tokens),
            FlopsItem("blocks", "BK-Core phi recursion", "elementwise", 14 * tokens),
            FlopsItem("blocks", "BK-Core division", "elementwise", 6 * tokens),
            FlopsItem("blocks", "output projection", "product", 2 * tokens * 2 * d),
        ]
        return [
            FlopsItem("embedding", "position addition", "elementwise", self.count_embedding_flops().forward),
            *(FlopsItem(i.part, i.operation, i.kind, self.n_layers * i.flops) for i in block),
            FlopsItem("final_layernorm", "LayerNorm", "elementwise", self.count_layernorm_flops().forward),
            FlopsItem("lm_head", "LM head", "product", 2 * tokens * d * self.vocab_size),
        ]

    def product_flops(self) -> FLOPsCount:
        """The matrix products' share, forward and backward: what an op-level counter finds in a training step."""
        return _with_backward(sum(item.flops for item in self.forward_items() if item.kind == "product"))

    def print_summary(self) -> None:
        """Print totals and component shares as a table on standard output."""
        from rich.console import Console
        from rich.table import Table

        total = self.count_total_flops()
        console = Console()
        console.print(
            f"FLOPs Counter Summary: ResNet-BK d={self.d_model} L={self.n_layers} N={self.seq_len} "
            f"batch={self.batch_size}, {self.num_experts} experts (top-{self.top_k}), {self.optimizer}",
            highlight=False,
            soft_wrap=True,
        )
        table = Table("One training step", "FLOPs", "", title="Totals")
        rows = (
            ("Forward Pass", total.forward),
            ("Backward Pass", total.backward),
            ("Optimizer Step", total.optimizer),
            ("Total", total.total),
        )
        for name, flops in rows:
            table.add_row(name, format_integer(flops), format_count(flops, "FLOPs"))
        console.print(table)
        parts = Table("Component", "Forward FLOPs", "Share", title="Component Breakdown (forward)")
        for name, count in self.component_flops.items():
            parts.add_row(name, format_integer(count.forward), format_percent(count.forward / total.forward))
        console.print(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: sizes, totals, breakdown and items."""
        return {
            "unit": "FLOPs of one training step",
            "model_config": {
                "d_model": self.d_model,
                "n_layers": self.n_layers,
                "seq_len": self.seq_len,
                "batch_size": self.batch_size,
                "vocab_size": self.vocab_size,
                "num_experts": self.num_experts,
                "top_k": self.top_k,
                "trained_params": sum(_trained(self.model)),
            },
            "optimizer": self.optimizer,
            "total_flops": self.count_total_flops().to_dict(),
            "product_flops": self.product_flops().to_dict(),
            "component_breakdown": self.get_breakdown(),
            "forward_items": [
                {"part": i.part, "operation": i.operation, "kind": i.kind, "flops": i.flops}
                for i in self.forward_items()
            ],
        }

    def save_to_json(self, path: str | Path) -> Path:
        """Write :meth:`to_dict` to a file, replacing it in one step; returns the path."""
        from diffmeter.storage.files import write_json

        write_json(Path(path), self.to_dict())
        return Path(path)

    def _moe_items(self) -> list[FlopsItem]:
        d, e, k, tokens = self.d_model, self.num_experts, self.top_k, self.tokens
        operations: tuple[tuple[str, Kind, int], ...] = (
            ("gate", "product", 2 * d * e),
            ("gate softmax", "elementwise", SOFTMAX_OPS * e),
            ("experts' linear layers", "product", k * 8 * d * d),
            ("experts' activation", "elementwise", k * 2 * d),
        )
        return [FlopsItem("blocks", name, kind, tokens * flops) for name, kind, flops in operations]

    def _count_components(self) -> dict[str, FLOPsCount]:
        ops = OPTIMIZER_OPS[self.optimizer]
        counts = {"embedding": self.count_embedding_flops()}
        counts.update({f"layer_{i}": self.count_block_flops() for i in range(self.n_layers)})
        counts["final_layernorm"] = self.count_layernorm_flops()
        counts["lm_head"] = self.count_linear_flops(self.d_model, self.vocab_size)
        params = dict.fromkeys(counts, 0)
        for name, parameter in self.model.named_parameters():  # a tied matrix comes once, under its first name
            if parameter.requires_grad:
                params[_component_of(name)] += parameter.numel()
        self.component_flops = {
            name: count + FLOPsCount(optimizer=ops * params[name]) for name, count in counts.items()
        }
        return self.component_flops


def _with_backward(forward: int) -> FLOPsCount:
    return FLOPsCount(forward, 2 * forward)


def _trained(model: nn.Module) -> list[int]:
    return [p.numel() for p in model.parameters() if p.requires_grad]


def _component_of(parameter: str) -> str:
    head, _, rest = parameter.partition(".")
    if head == "blocks":
        return f"layer_{rest.partition('.')[0]}"
    return {"norm": "final_layernorm", "lm_head": "lm_head"}.get(head, "embedding")


_TRANSFORMER_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def transformer_step_flops(
    model: nn.Module | QwenConfig, batch_size: int, seq_len: int, optimizer: str = "adamw"
) -> FLOPsCount:
    """FLOPs of one training step of a decoder with SwiGLU blocks (Qwen2.5, Llama), by the formulas of ``flops``.

    Backward is twice the forward, and the optimizer works on every trained parameter.

    Args:
        model: such a model of transformers, or the sizes of one.
        batch_size: sequences B.
        seq_len: tokens of each.
        optimizer: a name of :data:`OPTIMIZER_OPS`.

    Raises:
        InputError: a size below 1, an unknown optimizer, or a model without these sizes or with other blocks.
    """
    config: Any = model if isinstance(model, QwenConfig) else getattr(model, "config", None)
    missing = [name for name in _TRANSFORMER_SIZES if not isinstance(getattr(config, name, None), int)]
    gated = isinstance(model, QwenConfig) or any(name.endswith("gate_proj") for name, _ in model.named_modules())
    if missing or not gated:
        raise InputError(
            f"compare_models takes ResNet-BK models and decoders with SwiGLU blocks, such as Qwen2.5, "
            f"not {type(model).__name__}"
        )
    params = (
        config.params
        if isinstance(model, QwenConfig)
        else sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    )
    forward = flops_qwen_model(
        batch_size, seq_len, config.hidden_size, config.num_hidden_layers, config.num_attention_heads, 1.0,
        num_kv_heads=getattr(config, "num_key_value_heads", None), head_dim=getattr(config, "head_dim", None),
        intermediate_size=config.intermediate_size, vocab_size=config.vocab_size, final_norm=True,
    )  # fmt: skip
    return FLOPsCount(forward, 2 * forward, OPTIMIZER_OPS[optimizer_name(optimizer)] * params)


def _step_flops(model: nn.Module | QwenConfig, batch_size: int, seq_len: int, optimizer: str) -> FLOPsCount:
    if hasattr(getattr(model, "config", None), "d_model"):
        assert not isinstance(model, QwenConfig)
        return FLOPsCounter(model, batch_size, seq_len, optimizer).count_total_flops()
    return transformer_step_flops(model, batch_size, seq_len, optimizer)


def compare_models(
    model1: nn.Module | QwenConfig,
    model2: nn.Module | QwenConfig,
    batch_size: int,
    seq_len: int,
    model1_name: str = "Model 1",
    model2_name: str = "Model 2",
    optimizer: str = "adamw",
) -> dict[str, dict[str, Any]]:
    """Compare one training step of two models: ResNet-BK models, Transformers, or one of each.

    A ResNet-BK counts as in :class:`FLOPsCounter`, a Transformer as in :func:`transformer_step_flops`.

    Returns:
        For each name the counts of :meth:`FLOPsCount.to_dict`, and under ``"speedup"`` how many times cheaper the
        second model is than the first, for ``forward``, ``backward``, ``optimizer`` and ``total`` (above 1: the
        second is cheaper; ``None`` where the second does nothing).

    Raises:
        InputError: as in :class:`FLOPsCounter`, or both names are equal or ``"speedup"``.
    """
    if model1_name == model2_name or "speedup" in (model1_name, model2_name):
        raise InputError(f"the names must differ and not be 'speedup', got {model1_name!r} and {model2_name!r}")
    first = _step_flops(model1, batch_size, seq_len, optimizer).to_dict()
    second = _step_flops(model2, batch_size, seq_len, optimizer).to_dict()
    speedup = {key: first[key] / second[key] if second[key] else None for key in first}
    return {model1_name: first, model2_name: second, "speedup": speedup}
