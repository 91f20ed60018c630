"""Closed-form FLOPs of Qwen2.5-Instruct: no weights, no forward, only sizes.

Every function returns FLOPs as an integer, with 2 FLOPs for each multiply-add of a matrix product and 1 for each
elementwise operation. Attention is counted full: a causal mask does not make the products smaller, which is also
what an op-level counter finds.

The functions follow the description of the model by ``hidden_dim``, ``num_heads`` and ``ffn_ratio``. Their optional
keyword arguments state what the real models have besides: fewer key/value heads than query heads, an intermediate
size of their own, a vocabulary. :func:`qwen_breakdown` gives the same numbers item by item, and :data:`QWEN2_5` the
sizes of the published models.

Left out on purpose, because they are no products and below a thousandth of the total: bias additions, residual
additions, the rotary rotation of queries and keys, the scaling of the scores, the addition of an adapter's output.
(Transformers before version 5 computed the rotary angles by a matrix product with one term, ``2 * S * d/2`` FLOPs a
forward; an op-level counter finds those there and nothing here.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from diffmeter.errors import InputError, whole_number

#: vocabulary (rows of the embedding) of Qwen2.5 0.5B, 1.5B and 3B; the larger models have 152,064
QWEN_VOCAB_SIZE = 151_936

#: operations for each element of a score matrix: exponential, addition to the row's sum, division by it
SOFTMAX_OPS = 3
#: operations for each element of an RMSNorm: square, addition to the mean, scaling, multiplication with the weight
RMS_NORM_OPS = 4
#: operations for each element of a SwiGLU: exponential, addition, division and product of SiLU; product with the gate
SWIGLU_OPS = 5
#: operations for each logit of a cross-entropy: subtraction of the maximum, exponential, addition to the sum
CROSS_ENTROPY_OPS = 3
#: operations for each token of a cross-entropy: logarithm of the sum, difference to the target's logit, mean
CROSS_ENTROPY_TOKEN_OPS = 3

#: a backward pass costs twice its forward: one product for the input's gradient, one for the weight's
TRAINING_FACTOR = 3

Kind = Literal["product", "elementwise"]


def _size(name: str, value: int, minimum: int = 1) -> int:
    """A whole number as Python's, which does not overflow."""
    return whole_number(value, name, minimum)


def _head_sizes(hidden_dim: int, num_heads: int, num_kv_heads: int | None, head_dim: int | None) -> tuple[int, int]:
    """Width of all query heads together and of all key (or value) heads together."""
    hidden_dim, num_heads = _size("hidden_dim", hidden_dim), _size("num_heads", num_heads)
    if head_dim is None:
        if hidden_dim % num_heads:
            raise InputError(f"num_heads must divide hidden_dim, got {num_heads} heads for a width of {hidden_dim}")
        head_dim = hidden_dim // num_heads
    head_dim = _size("head_dim", head_dim)
    kv_heads = num_heads if num_kv_heads is None else _size("num_kv_heads", num_kv_heads)
    if num_heads % kv_heads:
        raise InputError(f"num_kv_heads must divide num_heads, got {kv_heads} for {num_heads} query heads")
    return num_heads * head_dim, kv_heads * head_dim


def _intermediate(hidden_dim: int, ffn_ratio: float, intermediate_size: int | None) -> int:
    if intermediate_size is not None:
        return _size("intermediate_size", intermediate_size)
    if isinstance(ffn_ratio, bool) or not isinstance(ffn_ratio, int | float) or not 0 < ffn_ratio < float("inf"):
        raise InputError(f"ffn_ratio must be a finite number above 0, got {ffn_ratio!r}")
    return _size("intermediate size (ffn_ratio x hidden_dim)", round(ffn_ratio * hidden_dim))


def flops_embedding(batch_size: int, seq_len: int, hidden_dim: int) -> int:
    """FLOPs of the embedding: ``B * S * H``.

    Looking a token up costs nothing; adding its position costs one addition for each element. Qwen2.5 itself adds
    no positions (it rotates queries and keys): the term stands for models that add them.

    Raises:
        InputError: a size is not a whole number above 0 (a ``ValueError``, as in every function here).
    """
    return _size("batch_size", batch_size) * _size("seq_len", seq_len) * _size("hidden_dim", hidden_dim)


def _attention_items(
    batch_size: int,
    seq_len: int,
    hidden_dim: int,
    num_heads: int,
    r: int,
    num_kv_heads: int | None,
    head_dim: int | None,
) -> dict[str, int]:
    seq_len, hidden_dim = _size("seq_len", seq_len), _size("hidden_dim", hidden_dim)
    num_heads = _size("num_heads", num_heads)
    tokens = _size("batch_size", batch_size) * seq_len
    query, key = _head_sizes(hidden_dim, num_heads, num_kv_heads, head_dim)
    r = _size("r", r, minimum=0)
    scores = tokens * seq_len  # of one head
    return {
        "query projection": 2 * tokens * hidden_dim * query,
        "key projection": 2 * tokens * hidden_dim * key,
        "value projection": 2 * tokens * hidden_dim * key,
        "output projection": 2 * tokens * query * hidden_dim,
        "LoRA on the projections": 2 * tokens * r * (2 * (hidden_dim + query) + 2 * (hidden_dim + key)),
        "query-key product": 2 * scores * query,
        "attention-value product": 2 * scores * query,
        "softmax": SOFTMAX_OPS * scores * num_heads,
    }


def flops_attention(
    batch_size: int,
    seq_len: int,
    hidden_dim: int,
    num_heads: int,
    r: int = 0,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
) -> int:
    """FLOPs of one self-attention layer.

    With B sequences of S tokens, width H, A heads of size d (A*d = H), G key/value heads (G = A unless given):

    - query projection ``2*B*S*H*A*d``, key and value projections ``2*B*S*H*G*d`` each
    - query-key product ``2*B*A*S*S*d`` and attention-value product ``2*B*A*S*S*d``
    - softmax ``3*B*A*S*S`` (exponential, sum, division)
    - output projection ``2*B*S*A*d*H``
    - LoRA of rank r on the four projections: ``2*B*S*r*(in + out)`` for each, ``16*B*S*H*r`` if G = A

    Args:
        batch_size: sequences B.
        seq_len: tokens S of each sequence.
        hidden_dim: width H.
        num_heads: query heads A; must divide H unless ``head_dim`` is given.
        r: LoRA rank on the projections; 0 for none.
        num_kv_heads: key/value heads G of grouped-query attention; must divide A.
        head_dim: size d of a head, if it is not H / A.

    Raises:
        InputError: a size below 1 (``r`` below 0) or heads that do not divide.
    """
    return sum(_attention_items(batch_size, seq_len, hidden_dim, num_heads, r, num_kv_heads, head_dim).values())


def _feedforward_items(
    batch_size: int, seq_len: int, hidden_dim: int, ffn_ratio: float, intermediate_size: int | None
) -> dict[str, int]:
    tokens = _size("batch_size", batch_size) * _size("seq_len", seq_len)
    hidden_dim = _size("hidden_dim", hidden_dim)
    intermediate = _intermediate(hidden_dim, ffn_ratio, intermediate_size)
    one = 2 * tokens * hidden_dim * intermediate
    return {
        "gate projection": one,
        "up projection": one,
        "down projection": one,
        "SwiGLU activation": SWIGLU_OPS * tokens * intermediate,
    }


def flops_feedforward(
    batch_size: int, seq_len: int, hidden_dim: int, ffn_ratio: float = 4.0, *, intermediate_size: int | None = None
) -> int:
    """FLOPs of one SwiGLU feed-forward network.

    With an intermediate size I (``round(ffn_ratio * H)`` unless given):

    - gate, up and down projections ``2*B*S*H*I`` each: SwiGLU has three matrices, not two
    - activation ``5*B*S*I`` (SiLU: exponential, addition, division, product; then the product of gate and up)

    Raises:
        InputError: a size below 1, or a ratio that is not a finite number above 0.
    """
    return sum(_feedforward_items(batch_size, seq_len, hidden_dim, ffn_ratio, intermediate_size).values())


def flops_norm(batch_size: int, seq_len: int, hidden_dim: int) -> int:
    """FLOPs of one RMSNorm: ``4*B*S*H``.

    For each element one square, one addition to the mean, one product with the reciprocal root and one with the
    weight. The three operations for each token (division by H, epsilon, root) are left out.
    """
    return RMS_NORM_OPS * flops_embedding(batch_size, seq_len, hidden_dim)


def flops_transformer_block(
    batch_size: int,
    seq_len: int,
    hidden_dim: int,
    num_heads: int,
    ffn_ratio: float = 4.0,
    r: int = 0,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int | None = None,
) -> int:
    """FLOPs of one block: :func:`flops_attention` + :func:`flops_feedforward` + 2 x :func:`flops_norm`."""
    return (
        flops_attention(batch_size, seq_len, hidden_dim, num_heads, r, num_kv_heads=num_kv_heads, head_dim=head_dim)
        + flops_feedforward(batch_size, seq_len, hidden_dim, ffn_ratio, intermediate_size=intermediate_size)
        + 2 * flops_norm(batch_size, seq_len, hidden_dim)
    )


def flops_cross_entropy_loss(batch_size: int, seq_len: int, *, vocab_size: int = QWEN_VOCAB_SIZE) -> int:
    """FLOPs of the cross-entropy over the vocabulary V: ``B*S*(3*V + 3)``.

    For each logit one subtraction of the maximum, one exponential and one addition to the sum; for each token the
    sum's logarithm, the difference to the target's logit and the addition to the mean.
    """
    tokens = _size("batch_size", batch_size) * _size("seq_len", seq_len)
    return tokens * (CROSS_ENTROPY_OPS * _size("vocab_size", vocab_size) + CROSS_ENTROPY_TOKEN_OPS)


def flops_qwen_model(
    batch_size: int,
    seq_len: int,
    hidden_dim: int,
    num_layers: int,
    num_heads: int,
    ffn_ratio: float,
    r: int = 0,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int | None = None,
    vocab_size: int = QWEN_VOCAB_SIZE,
    tied_embeddings: bool = False,
    final_norm: bool = False,
) -> int:
    """FLOPs of one forward pass: embedding + L blocks + output layer.

    - :func:`flops_embedding` ``B*S*H``
    - ``L`` x :func:`flops_transformer_block`
    - output layer (LM head) ``2*B*S*H*V``, for every position

    Args:
        batch_size: sequences B.
        seq_len: tokens S of each sequence.
        hidden_dim: width H.
        num_layers: blocks L.
        num_heads: query heads.
        ffn_ratio: intermediate size over H; ignored if ``intermediate_size`` is given.
        r: LoRA rank on the attention projections of every block; 0 for none.
        num_kv_heads: key/value heads; as many as query heads if not given.
        head_dim: size of a head, if it is not ``hidden_dim / num_heads``.
        intermediate_size: width of the feed-forward network.
        vocab_size: rows V of the output layer.
        tied_embeddings: whether the output layer shares the embedding's matrix. That saves parameters, not FLOPs:
            the product is computed either way, so the result is the same.
        final_norm: add the norm between the last block and the output layer, which the real model has and the
            three-part sum leaves out.

    Raises:
        InputError: a size below 1 (``r`` below 0) or heads that do not divide.
    """
    del tied_embeddings
    block = flops_transformer_block(
        batch_size,
        seq_len,
        hidden_dim,
        num_heads,
        ffn_ratio,
        r,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
    )
    embedding = flops_embedding(batch_size, seq_len, hidden_dim)
    head = 2 * embedding * _size("vocab_size", vocab_size)
    norm = flops_norm(batch_size, seq_len, hidden_dim) if final_norm else 0
    return embedding + _size("num_layers", num_layers) * block + norm + head


def flops_for_experiment(
    num_steps: int,
    batch_size: int,
    seq_len: int,
    hidden_dim: int,
    num_layers: int,
    num_heads: int,
    ffn_ratio: float,
    r: int,
    training: bool = True,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int | None = None,
    vocab_size: int = QWEN_VOCAB_SIZE,
    tied_embeddings: bool = False,
    final_norm: bool = False,
    loss: bool = False,
    exact_lora: bool = False,
) -> int:
    """FLOPs of ``num_steps`` steps: three forwards each for training (forward + backward), one for inference.

    Three times the forward is the usual rule and exact for the products of a full fine-tuning. With LoRA (``r`` above
    0) only the adapters are trained: frozen weights get no gradient, and neither does the input of the first block's
    query, key and value projections, before which nothing is trained. With ``exact_lora`` these products are left
    out, so that the products are those of the step that really runs; elementwise operations stay at three times the
    forward.

    Args:
        num_steps: steps, at least 1.
        training: whether each step has a backward pass.
        loss: add :func:`flops_cross_entropy_loss` to each training forward.
        exact_lora: leave out the gradients that a step with LoRA does not compute.

    The others are those of :func:`flops_qwen_model`.

    Raises:
        InputError: a size below 1 (``r`` below 0) or heads that do not divide.
    """
    forward = flops_qwen_model(
        batch_size,
        seq_len,
        hidden_dim,
        num_layers,
        num_heads,
        ffn_ratio,
        r,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        vocab_size=vocab_size,
        tied_embeddings=tied_embeddings,
        final_norm=final_norm,
    )
    if training and loss:
        forward += flops_cross_entropy_loss(batch_size, seq_len, vocab_size=vocab_size)
    step = forward * (TRAINING_FACTOR if training else 1)
    if training and r and exact_lora:
        step -= _frozen_gradients(
            _attention_items(batch_size, seq_len, hidden_dim, num_heads, r, num_kv_heads, head_dim),
            _feedforward_items(batch_size, seq_len, hidden_dim, ffn_ratio, intermediate_size),
            num_layers,
            head=2 * batch_size * seq_len * hidden_dim * vocab_size,
            adapter_input=2 * batch_size * seq_len * hidden_dim * r,
        )
    return _size("num_steps", num_steps) * step


def _frozen_gradients(
    attention: Mapping[str, int], feedforward: Mapping[str, int], num_layers: int, *, head: int, adapter_input: int
) -> int:
    """FLOPs of gradients that a step with LoRA on the attention projections does not compute."""
    # the weight's gradient of each frozen projection takes what its forward takes
    weights = num_layers * sum(
        flops for items in (attention, feedforward) for name, flops in items.items() if name.endswith("projection")
    )
    # in the first block nothing before query, key and value is trained: neither they nor their adapters hand back
    # a gradient of the input
    inputs = sum(attention[f"{name} projection"] for name in ("query", "key", "value")) + 3 * adapter_input
    return weights + head + inputs


@dataclass(frozen=True)
class QwenConfig:
    """Sizes of one Qwen2.5 model, by the field names of its ``config.json``."""

    name: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    source: str

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def params(self) -> int:
        """Parameters of the model: embedding, blocks (with biases on query, key and value), norm and LM head."""
        h, kv = self.hidden_size, self.num_key_value_heads * self.head_dim
        attention = 2 * h * h + 2 * h * kv + h + 2 * kv
        block = attention + 3 * h * self.intermediate_size + 2 * h
        embeddings = self.vocab_size * h * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * block + h

    def lora_params(self, r: int) -> int:
        """Parameters of rank-``r`` adapters on the four attention projections of every block."""
        h, kv = self.hidden_size, self.num_key_value_heads * self.head_dim
        return self.num_hidden_layers * _size("r", r, minimum=0) * (4 * h + 2 * (h + kv))


def _qwen(name: str, hidden: int, layers: int, heads: int, kv: int, inner: int, vocab: int, tied: bool) -> QwenConfig:
    source = f"https://huggingface.co/Qwen/{name}-Instruct/blob/main/config.json"
    return QwenConfig(name, hidden, layers, heads, kv, inner, vocab, tied, source)


#: the seven published sizes, by the short name that ``diffmeter llm`` takes
QWEN2_5: Mapping[str, QwenConfig] = {
    config.name.lower(): config
    for config in (
        _qwen("Qwen2.5-0.5B", 896, 24, 14, 2, 4864, 151_936, True),
        _qwen("Qwen2.5-1.5B", 1536, 28, 12, 2, 8960, 151_936, True),
        _qwen("Qwen2.5-3B", 2048, 36, 16, 2, 11_008, 151_936, True),
        _qwen("Qwen2.5-7B", 3584, 28, 28, 4, 18_944, 152_064, False),
        _qwen("Qwen2.5-14B", 5120, 48, 40, 8, 13_824, 152_064, False),
        _qwen("Qwen2.5-32B", 5120, 64, 40, 8, 27_648, 152_064, False),
        _qwen("Qwen2.5-72B", 8192, 80, 64, 8, 29_568, 152_064, False),
    )
}


def qwen_config(name: str) -> QwenConfig:
    """The sizes of a published model by name: ``qwen2.5-7b``, ``Qwen/Qwen2.5-7B-Instruct`` or ``7b``.

    Raises:
        InputError: no published size has that name.
    """
    key = str(name).lower().rpartition("/")[2].removesuffix("-instruct")
    found = QWEN2_5.get(key) or QWEN2_5.get(f"qwen2.5-{key}")
    if found is None:
        raise InputError(f"unknown model {name!r}: use one of {', '.join(QWEN2_5)}")
    return found


@dataclass(frozen=True)
class FlopsItem:
    """One line of a breakdown: FLOPs of one operation over all layers, in one forward pass."""

    part: str
    operation: str
    kind: Kind
    flops: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a product: half its FLOPs; an elementwise operation has none."""
        return self.flops // 2 if self.kind == "product" else 0


@dataclass(frozen=True)
class QwenBreakdown:
    """FLOPs of one forward pass of a Qwen2.5 model, item by item.

    The total equals :func:`flops_qwen_model` with ``final_norm=True`` (and, with a loss, plus
    :func:`flops_cross_entropy_loss`).
    """

    batch_size: int
    seq_len: int
    items: tuple[FlopsItem, ...]

    @property
    def total_flops(self) -> int:
        """FLOPs of everything listed."""
        return sum(item.flops for item in self.items)

    @property
    def product_flops(self) -> int:
        """FLOPs of the matrix products: what an op-level counter finds in a forward pass of the real model."""
        return sum(item.flops for item in self.items if item.kind == "product")

    @property
    def matmul_macs(self) -> int:
        """Multiply-accumulates of the matrix products."""
        return self.product_flops // 2

    @property
    def elementwise_flops(self) -> int:
        """FLOPs of softmax, norms, activation and the like."""
        return self.total_flops - self.product_flops

    def by_part(self) -> dict[str, int]:
        """FLOPs by part of the model (embedding, attention, feed-forward, norms, LM head)."""
        parts: dict[str, int] = {}
        for item in self.items:
            parts[item.part] = parts.get(item.part, 0) + item.flops
        return parts

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the totals besides the items."""
        return {
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "items": [asdict(item) for item in self.items],
            "total_flops": self.total_flops,
            "product_flops": self.product_flops,
            "elementwise_flops": self.elementwise_flops,
            "matmul_macs": self.matmul_macs,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QwenBreakdown:
        """The breakdown that :meth:`to_dict` wrote; totals are computed again from the items."""
        return cls(data["batch_size"], data["seq_len"], tuple(FlopsItem(**item) for item in data["items"]))


_ELEMENTWISE = frozenset({"softmax", "SwiGLU activation"})


def qwen_breakdown(
    config: QwenConfig, batch_size: int, seq_len: int, *, r: int = 0, lm_head: bool = True, loss: bool = False
) -> QwenBreakdown:
    """FLOPs of one forward pass of ``config``, item by item.

    Args:
        config: sizes of the model, of :data:`QWEN2_5` or one's own.
        batch_size: sequences.
        seq_len: tokens of each sequence.
        r: LoRA rank on the attention projections; 0 for none.
        lm_head: whether logits are computed; a text encoder of a diffusion pipeline needs none.
        loss: add the cross-entropy of a training step.

    Raises:
        InputError: a size below 1 (``r`` below 0) or heads that do not divide.
    """
    h, layers = config.hidden_size, _size("num_hidden_layers", config.num_hidden_layers)
    norm = flops_norm(batch_size, seq_len, h)
    attention = _attention_items(
        batch_size, seq_len, h, config.num_attention_heads, r, config.num_key_value_heads, config.head_dim
    )
    feedforward = _feedforward_items(batch_size, seq_len, h, 1.0, config.intermediate_size)
    items = [FlopsItem("embedding", "position additions", "elementwise", flops_embedding(batch_size, seq_len, h))]
    for part, operations in (("attention", attention), ("feed-forward", feedforward)):
        for operation, flops in operations.items():
            if flops:  # no line for an adapter that is not there
                kind: Kind = "elementwise" if operation in _ELEMENTWISE else "product"
                items.append(FlopsItem(part, operation, kind, layers * flops))
    items.append(FlopsItem("norms", "RMSNorm of the blocks", "elementwise", 2 * layers * norm))
    items.append(FlopsItem("norms", "final RMSNorm", "elementwise", norm))
    if lm_head:
        head = 2 * flops_embedding(batch_size, seq_len, h) * _size("vocab_size", config.vocab_size)
        items.append(FlopsItem("LM head", "output projection to the vocabulary", "product", head))
    if loss:
        cross_entropy = flops_cross_entropy_loss(batch_size, seq_len, vocab_size=config.vocab_size)
        items.append(FlopsItem("loss", "cross-entropy", "elementwise", cross_entropy))
    return QwenBreakdown(batch_size, seq_len, tuple(items))
