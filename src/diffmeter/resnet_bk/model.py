"""ResNet-BK: a sequence model whose mixing step is the diagonal of a resolvent, in O(N) instead of attention's O(N^2).

Each block turns its tokens into the potential of a tridiagonal operator (a discrete Schroedinger operator on the
sequence), and reads for each token the diagonal of its resolvent (:mod:`.bk_core`). That entry depends on the tokens
on both sides, so the model suits tasks that see the whole sequence (tagging, filling in), not next-token prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from diffmeter.errors import InputError, whole_number

from .bk_core import resolvent_diagonal


@dataclass
class ResNetBKConfig:
    """Sizes and choices of a :class:`ConfigurableResNetBK`. The model keeps a copy of its own."""

    #: width of a token
    d_model: int = 64
    #: blocks
    n_layers: int = 4
    #: longest sequence (rows of the position embedding)
    n_seq: int = 128
    #: tokens of the vocabulary
    vocab_size: int = 30_000
    #: feed-forward experts of each block
    num_experts: int = 4
    #: experts that each token visits
    top_k: int = 1
    #: whether the LM head uses the token embedding's matrix: fewer parameters, the same forward
    tie_embeddings: bool = False
    #: hand-written backward of BK-Core; False goes back through the recursions by autograd
    analytic_backward: bool = True
    #: the point at which the resolvent is taken; its imaginary part is the width of the spectrum's smoothing
    z: complex = field(default=1j)
    #: the potential is kept within plus and minus this value
    v_max: float = 3.0

    def validate(self) -> None:
        """Raise :class:`InputError` if a value cannot be used."""
        for name in ("d_model", "n_layers", "n_seq", "vocab_size", "num_experts", "top_k"):
            setattr(self, name, whole_number(getattr(self, name), name))
        if self.top_k > self.num_experts:
            raise InputError(f"top_k must not exceed num_experts, got {self.top_k} of {self.num_experts}")
        if not complex(self.z).imag:
            raise InputError(f"z needs an imaginary part, or the resolvent may not exist; got {self.z!r}")
        if not self.v_max > 0:
            raise InputError(f"v_max must be above 0, got {self.v_max!r}")


#: the baseline: 4 blocks of width 64, 4 experts of which each token visits one
BASELINE_CONFIG = ResNetBKConfig()
#: the same with the LM head tied to the embedding: the baseline's forward and backward, fewer parameters to update
STEP2_CONFIG = ResNetBKConfig(tie_embeddings=True)


class MixtureOfExperts(nn.Module):
    """Each token is sent to its ``top_k`` best of ``num_experts`` two-layer networks, weighted by the gate.

    An expert is ``D -> 2D -> ReLU -> D``: ``8*D^2 + 2*D`` operations for a token.
    """

    def __init__(self, d_model: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.top_k = top_k
        self.gate = nn.Linear(d_model, num_experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.ReLU(), nn.Linear(2 * d_model, d_model))
            for _ in range(num_experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D) -> (B, N, D)``."""
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(tokens).softmax(dim=-1).topk(self.top_k, dim=-1)
        # Sort the (token, choice) pairs by expert, so that each expert sees its tokens in one product.
        order = chosen.flatten().argsort()
        source = order // self.top_k
        parts = tokens[source].split(self._loads(chosen))
        results = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        weighted = results * weights.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(tokens).index_add(0, source, weighted).reshape(x.shape)

    def _loads(self, chosen: Tensor) -> list[int]:
        """How many (token, choice) pairs each expert gets; they sum to tokens x top_k."""
        if chosen.is_meta:  # no values to look at: any split has the same products in total
            share, rest = divmod(chosen.numel(), self.num_experts)
            return [share + (i < rest) for i in range(self.num_experts)]
        return [int(n) for n in torch.bincount(chosen.flatten(), minlength=self.num_experts)]


class ResNetBKBlock(nn.Module):
    """Norm, mixture of experts, BK-Core over the sequence, and a residual connection."""

    def __init__(self, config: ResNetBKConfig) -> None:
        super().__init__()
        self.z = complex(config.z)
        self.v_max = config.v_max
        self.analytic_backward = config.analytic_backward
        self.norm = nn.LayerNorm(config.d_model)
        self.moe = MixtureOfExperts(config.d_model, config.num_experts, config.top_k)
        self.potential = nn.Linear(config.d_model, 1)
        self.output = nn.Linear(2, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D) -> (B, N, D)``."""
        mixed: Tensor = self.moe(self.norm(x))
        # The discrete Laplacian (-2 on the diagonal, 1 beside it) plus a bounded potential, one value for each token.
        potential = self.v_max * torch.tanh(self.potential(mixed).squeeze(-1) / self.v_max)
        couplings = torch.ones(x.shape[1] - 1, dtype=potential.dtype, device=potential.device)
        resolvent = resolvent_diagonal(potential - 2, couplings, self.z, analytic_backward=self.analytic_backward)
        features = torch.view_as_real(resolvent).to(x.dtype)
        output: Tensor = self.output(features)
        return x + mixed + output


class ConfigurableResNetBK(nn.Module):
    """Token and position embedding, ``n_layers`` blocks, norm, LM head.

    Args:
        config: sizes; copied, so that changing it afterwards does not touch the model.

    Raises:
        InputError: a size below 1, more experts chosen than there are, or a real ``z``.
    """

    def __init__(self, config: ResNetBKConfig) -> None:
        super().__init__()
        config.validate()
        self.config = config = replace(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.n_seq, config.d_model)
        self.blocks = nn.ModuleList(ResNetBKBlock(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits for each position.

        Args:
            tokens: token numbers of shape (B, N), with N at most ``n_seq``.

        Returns:
            Shape (B, N, vocab_size).

        Raises:
            InputError: another number of dimensions, an empty batch or sequence, or a sequence that is too long.
        """
        if tokens.dim() != 2 or not tokens.numel():
            shape = tuple(tokens.shape)
            raise InputError(f"tokens must have the shape (batch, sequence) and not be empty, got {shape}")
        if tokens.shape[1] > self.config.n_seq:
            raise InputError(f"sequences may have up to {self.config.n_seq} tokens, got {tokens.shape[1]}")
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits
