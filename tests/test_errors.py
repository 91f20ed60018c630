"""The exceptions' hierarchy, an error as one line, and the checks of numbers."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch

from diffmeter import errors
from diffmeter.errors import DiffmeterError, InputError, one_line, real_number, shown, whole_number


def test_every_exception_is_a_diffmeter_error_and_stands_in_the_hierarchy() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    assert len(classes) >= 8
    for cls in classes:
        assert issubclass(cls, DiffmeterError)
        assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InputError", ValueError),
        ("ModelNotFoundError", ValueError),
        ("ModelLoadError", RuntimeError),
        ("TemporaryHubError", RuntimeError),
        ("CountError", RuntimeError),
        ("StorageError", OSError),
        ("FolderInUseError", OSError),
    ],
)
def test_callers_that_do_not_know_the_package_catch_builtin_exceptions(name: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), builtin)


def test_one_line() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(KeyError("unet"), with_type=True) == "KeyError: 'unet'"
    assert one_line(KeyError(), with_type=True) == "KeyError"
    assert one_line(InputError("A sentence."), with_type=True) == "A sentence."
    assert one_line(ValueError("x" * 1000), limit=50) == "x" * 47 + "..."


def test_shown_survives_a_repr_that_raises() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown(Silent()) == "<Silent>"
    assert len(shown("x" * 1000, limit=20)) == 20


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers(value: object) -> None:
    number = whole_number(value, "steps")
    assert type(number) is int
    assert number == 3


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), torch.tensor(True), 3.0, np.float64(3), "3", None, 0, -1, torch.ones(2), [3]]
)
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(InputError, match=r"^steps must be a whole number of at least 1, not .*\.$"):
        whole_number(value, "steps")


def test_bounds_of_whole_numbers() -> None:
    assert whole_number(0, "seed", least=0) == 0
    assert whole_number(8, "height", 8, 16) == 8
    with pytest.raises(InputError, match=r"^height must be a whole number from 8 to 16, not 17\.$"):
        whole_number(17, "height", 8, 16)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)])
def test_real_numbers(value: object) -> None:
    assert real_number(value, "guidance_scale", 0, 100) == 2.0


@pytest.mark.parametrize("value", [True, np.bool_(True), "2", None, math.nan, math.inf, -1, 101, 2j, 10**400])
def test_what_is_no_real_number(value: object) -> None:
    with pytest.raises(InputError, match=r"^guidance_scale must be a number from 0 to 100, not "):
        real_number(value, "guidance_scale", 0, 100)


def test_a_bound_may_be_excluded() -> None:
    with pytest.raises(InputError, match=r"^ratio must be a number above 0, not 0\.$"):
        real_number(0, "ratio", above=True)
    with pytest.raises(InputError, match=r"^ratio must be a number above 0 up to 2, not 3\.$"):
        real_number(3, "ratio", 0, 2, above=True)
    with pytest.raises(InputError, match=r"^ratio must be a number of at least 0, not -1\.$"):
        real_number(-1, "ratio")
