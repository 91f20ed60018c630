"""Frozen arguments: what tells two calls apart, and that no user tensor is held."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from diffmeter.metering.watching.signature import TensorSpec, freeze, iter_tensors, map_leaves


def key(*args, **kwargs):
    return freeze(args, kwargs).key


@dataclass
class Posterior:
    mean: torch.Tensor
    flag: bool = False


class Slots:
    __slots__ = ("n",)

    def __init__(self, n):
        self.n = n

    def __repr__(self):
        return f"Slots({self.n})"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.ones(2, 3), torch.ones(3, 2)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (1, 2),
        (1, 1.0),
        (1, True),
        (None, False),
        ([torch.ones(2)], [torch.ones(2), torch.ones(2)]),
        ([1], (1,)),
        ({"a": 1}, {"b": 1}),
        ({"a": torch.ones(2)}, {"a": torch.ones(3)}),
        (np.int64(3), np.int64(5)),
        (np.ones(3), np.ones(4)),
        (slice(0, 3), slice(0, 7)),
        (range(3), range(4)),
        ({1, 2}, {1, 3}),
        (Posterior(torch.ones(2)), Posterior(torch.ones(3))),
        (Posterior(torch.ones(2)), Posterior(torch.ones(2), True)),
        (Slots(1), Slots(2)),
        (lambda x: x[:3], lambda x: x[:9]),
        (torch.float16, torch.float32),
    ],
)
def test_different_arguments_have_different_signatures(a, b) -> None:
    assert key(a) != key(b)
    assert key(x=a) != key(x=b)
    assert key(a) != key(x=a)


def test_values_of_tensors_are_no_part_of_the_signature() -> None:
    assert key(torch.zeros(2, 3), t=torch.tensor(5)) == key(torch.ones(2, 3), t=torch.tensor(9))
    assert key(torch.Generator()) == key(torch.Generator().manual_seed(3))


def test_small_integer_values_are_kept_apart() -> None:
    first, second = (freeze((torch.tensor([1, n]),), {}) for n in (1, 2))
    read = frozenset({0})
    assert first.values(read) != second.values(read)
    assert first.values(frozenset()) == second.values(frozenset())


def test_a_bound_method_is_the_same_each_time_it_is_taken() -> None:
    owner = Posterior(torch.ones(1))
    assert key(owner.__repr__) == key(owner.__repr__)
    assert key(owner.__repr__) != key(Posterior(torch.ones(1)).__repr__)


def test_objects_that_refer_to_each_other() -> None:
    a, b = Posterior(torch.ones(2)), Posterior(torch.ones(3))
    a.other, b.other = b, a
    frozen = freeze((a,), {})
    clone = frozen.thaw(lambda index, spec: torch.empty(spec.shape, device="meta"))[0][0]
    assert clone is not a and clone.mean.is_meta and clone.other.mean.shape == (3,)


def test_no_user_tensor_is_held() -> None:
    tensor = torch.ones(1000)
    gone = weakref.ref(tensor)
    frozen = freeze((tensor, [tensor], {"x": Posterior(tensor)}), {"y": tensor})
    assert len(frozen.tensors) == 1  # one tensor, met four times
    del tensor
    gc.collect()
    assert gone() is None
    assert frozen.tensors[0].shape == (1000,) and frozen.tensors[0].values is None


def test_a_mutable_argument_is_copied() -> None:
    given = [1, {"a": [2]}]
    frozen = freeze((given,), {})
    given[1]["a"].append(3)
    assert frozen.tree[0][0] == [1, {"a": [2]}]
    thawed = frozen.thaw(lambda i, s: None)[0][0]
    thawed[1]["a"].append(4)
    assert frozen.tree[0][0] == [1, {"a": [2]}]


def test_thaw_keeps_identity_and_order() -> None:
    a, b = torch.ones(2), torch.ones(3)
    args, kwargs = freeze((a, b, a), {"c": b}).thaw(lambda i, spec: torch.full(spec.shape, i))
    assert [t.tolist() for t in args] == [[0, 0], [1, 1, 1], [0, 0]] and kwargs["c"].tolist() == [1, 1, 1]


def test_which_values_are_kept() -> None:
    assert TensorSpec.of(torch.arange(100)).values is not None
    assert TensorSpec.of(torch.rand(3)).values is not None
    assert TensorSpec.of(torch.rand(100)).values is None
    assert TensorSpec.of(torch.ones(3, device="meta")).values is None


def test_masks_of_floating_point_numbers_are_known_and_embeddings_are_not() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0] * 20])
    known = TensorSpec.of(mask, argument=True).known()
    assert known is not None and torch.equal(known, mask) and known is not mask
    assert TensorSpec.of(mask).values is None  # held by a module: state, not a question
    for other in (torch.rand(1, 60), torch.zeros(1, 60), torch.ones(1, 60, 2), torch.ones(2, 1 << 13)):
        assert TensorSpec.of(other, argument=True).known() is None
    assert TensorSpec.of(torch.zeros(3), argument=True).known() is not None


def test_leaves_are_changed_and_the_rest_is_shared() -> None:
    marker, holder = object(), Posterior(torch.ones(2))
    changed = map_leaves({"a": [holder, marker]}, torch.Tensor, lambda t: t + 1)
    assert changed["a"][1] is marker and changed["a"][0].mean.tolist() == [2, 2] and holder.mean.tolist() == [1, 1]
    assert len(list(iter_tensors((holder, [holder.mean], {"x": torch.ones(1)})))) == 2
