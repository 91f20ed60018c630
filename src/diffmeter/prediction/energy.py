"""Joules of a run on a GPU, and what they mean in kilowatt-hours and grams of CO2.

A GPU draws a base power as long as it runs, and spends energy on every FLOP and every byte that it moves; it never
draws more than its power limit.
"""

from __future__ import annotations

from .hardware import Gpu
from .roofline import Time

JOULES_PER_KWH = 3.6e6
#: energy of a FLOP by dtype, relative to one of a 16-bit product: proportional to the bits that are multiplied
_COST_OF_DTYPE = {"float32": 2.0, "float8": 0.5, "int8": 0.5}


def joules(time: Time, gpu: Gpu, dtype: str = "bfloat16") -> float:
    """Energy of the GPU during ``time``.

    Raises:
        InputError: the power limit of the GPU is not known.
    """
    limit = gpu.figure("power_watts")
    rates = gpu.rates
    work = time.flops * rates.flop_joules * _COST_OF_DTYPE.get(dtype, 1.0) + time.bytes * rates.byte_joules
    return min(rates.idle_share * limit * time.seconds + work, limit * time.seconds)


def grams_of_co2(energy_joules: float, grams_per_kwh: float) -> float:
    """Grams of CO2 equivalent, from the carbon intensity of the grid."""
    return energy_joules / JOULES_PER_KWH * grams_per_kwh
