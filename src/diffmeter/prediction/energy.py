"""Joules of a run on a GPU, and what they mean in grams of CO2.

A GPU draws a share of its power limit as long as it runs, more by how near its products come to the best rate and its
traffic to the whole bandwidth, and never more than the limit.
"""

from __future__ import annotations

from .hardware import Gpu
from .roofline import Time

JOULES_PER_KWH = 3.6e6


def watts(time: Time, gpu: Gpu, dtype: str = "bfloat16") -> float:
    """Mean power of one GPU during ``time``.

    Raises:
        InputError: the power limit of the GPU is not known, or it has no rate for the dtype.
    """
    rates = gpu.rates
    if not time.seconds:
        return rates.idle_share * gpu.figure("power_watts")
    products = time.flops / time.seconds / gpu.reached_flops(dtype)
    traffic = time.bytes / time.seconds / (gpu.figure("bandwidth_gb_s") * 1e9)
    share = rates.idle_share + rates.product_share * products + rates.traffic_share * traffic
    return min(share, 1.0) * gpu.figure("power_watts")


def joules(time: Time, gpu: Gpu, dtype: str = "bfloat16") -> float:
    """Energy of one GPU during ``time``. Exceptions are those of :func:`watts`."""
    return watts(time, gpu, dtype) * time.seconds


def grams_of_co2(energy_joules: float, grams_per_kwh: float) -> float:
    """Grams of CO2 equivalent, from the carbon intensity of the grid."""
    return energy_joules / JOULES_PER_KWH * grams_per_kwh
