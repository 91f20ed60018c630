"""The kinds of operation that a count is split into, and how an operator or a module class is told its kind."""

from __future__ import annotations

from enum import Enum

CONVOLUTION = "convolution"
MATRIX_PRODUCT = "matrix product"
#: the groups in which the two counters are compared
GROUPS = (CONVOLUTION, MATRIX_PRODUCT)


class Kind(str, Enum):
    """A kind of operation; its value is the key in ``macs_by_op``.

    The first four are products: their sum is ``matmul_macs``. The others belong to the default convention only.
    """

    CONV = "conv"
    LINEAR = "linear"
    ATTENTION = "attention"
    MATMUL = "matmul"
    ATTENTION_SOFTMAX = "attention_softmax"
    NORMALIZATION = "normalization"
    POOLING = "pooling"
    UPSAMPLING = "upsampling"
    SOFTMAX = "softmax"
    ACTIVATION = "activation"
    OTHER = "other"

    __str__ = str.__str__

    @property
    def is_product(self) -> bool:
        """Whether its MACs belong to ``matmul_macs``."""
        return self in _PRODUCTS

    @property
    def has_weight(self) -> bool:
        """Whether one side of the product is a weight: what tables without attention print."""
        return self in (Kind.CONV, Kind.LINEAR)

    @property
    def group(self) -> str:
        """The group in which both counters are compared: convolutions, or everything that is a matrix product."""
        return CONVOLUTION if self is Kind.CONV else MATRIX_PRODUCT


_PRODUCTS = frozenset({Kind.CONV, Kind.LINEAR, Kind.ATTENTION, Kind.MATMUL})

#: parts of names, the first that fits decides
_WORDS = (
    ("attention", Kind.ATTENTION),
    ("conv", Kind.CONV),
    ("upsampl", Kind.UPSAMPLING),
    ("norm", Kind.NORMALIZATION),
    ("pool", Kind.POOLING),
    ("softmax", Kind.SOFTMAX),
    ("relu", Kind.ACTIVATION),
    ("linear", Kind.LINEAR),
    ("lstm", Kind.LINEAR),
    ("gru", Kind.LINEAR),
    ("rnn", Kind.LINEAR),
    ("pack_mm", Kind.LINEAR),
)
#: operators that linear layers run; an operator alone does not say whether one side was a weight
_OF_LINEAR_LAYERS = frozenset({"mm", "addmm", "addmm_", "_addmm_activation", "_int_mm", "_scaled_mm"})


def kind_of(name: str, otherwise: Kind = Kind.MATMUL) -> Kind:
    """The kind of an operator (``aten.addmm``) or of a module class (``GroupNorm``), by its name.

    >>> kind_of("aten.convolution"), kind_of("aten.bmm"), kind_of("GroupNorm")
    (<Kind.CONV: 'conv'>, <Kind.MATMUL: 'matmul'>, <Kind.NORMALIZATION: 'normalization'>)

    Args:
        name: the name, with or without its namespace.
        otherwise: the kind of a name that says nothing.
    """
    short = name.partition(".")[2] or name
    if short in _OF_LINEAR_LAYERS:
        return Kind.LINEAR
    return next((kind for word, kind in _WORDS if word in short.lower()), otherwise)
