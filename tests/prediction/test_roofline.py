"""Times of operators against calculations by hand, on a GPU of round numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffmeter.errors import InputError
from diffmeter.prediction import energy, hardware, money, parallel, roofline
from diffmeter.prediction.hardware import Gpu
from diffmeter.prediction.operators import ATTENTION, CONVOLUTION, MATMUL, POINTWISE, STRIDED, Operator


@pytest.fixture
def gpu() -> Gpu:
    """100 TFLOP/s, 1 TB/s, 100 multiprocessors, 100 W, 100 GB/s between GPUs; shares of 1 or as they stand here."""
    rates = replace(
        hardware.rates_of("hopper"),
        reached=1.0, matmul=1.0, attention=1.0, attention_limit=1e12, softmax_elements=1e10, convolution_limit=5e11,
        bandwidth=1.0, strided_elements=1e9, kernel_seconds=1e-6, host_seconds=1e-5, link=1.0, exchange_seconds=0.0,
        idle_share=0.2, product_share=0.5, traffic_share=0.1,
    )  # fmt: skip
    figures = {
        "bfloat16_tflops": 100.0,
        "float32_tflops": 10.0,
        "bandwidth_gb_s": 1000.0,
        "multiprocessors": 100.0,
        "power_watts": 100.0,
        "link_gb_s": 100.0,
    }
    return Gpu("g", "G", "nobody", "none", figures, dict.fromkeys(figures, "here"), rates)


def operator(kind: str, shape: tuple[int, ...], flops: int = 0, moved: int = 0, **more: int) -> Operator:
    return Operator("op", kind, "bfloat16", shape, flops, moved, 0, **more)


def test_a_large_matrix_product_takes_its_flops_over_the_peak(gpu: Gpu) -> None:
    """100 tiles of 256 x 128 fill 100 multiprocessors: 2 x 2560 x 1280 x 4096 FLOPs at 100 TFLOP/s."""
    flops = 2 * 2560 * 1280 * 4096
    seconds, bound = roofline.kernel_seconds(operator(MATMUL, (1, 2560, 1280, 4096), flops), gpu)
    assert (seconds, bound) == (pytest.approx(flops / 1e14), "compute")


def test_what_does_not_fill_the_multiprocessors_is_lost() -> None:
    """101 tiles need two waves of 100: half of the rate, and a little more."""
    assert roofline.filling((1, 256 * 100, 128, 64), 100) == 1.0
    assert roofline.filling((1, 256 * 101, 128, 64), 100) < 0.9
    assert roofline.filling((1, 1, 64, 64), 100) == pytest.approx(0.65 / 64 / 100)
    assert roofline.filling((1, 10, 10, 10), None) == 1.0


def test_attention_adds_its_softmax_and_pads_its_heads(gpu: Gpu) -> None:
    """10^6 elements over 100 x 1e10 a second; products at the limit of 100 x 1e12 FLOP/s; heads of 72 as 96."""
    flops = 2 * 1000 * 1000 * 144
    seconds, _ = roofline.kernel_seconds(operator(ATTENTION, (1, 1, 1000, 1000, 72, 72), flops), gpu)
    assert seconds == pytest.approx(flops * 96 / 72 / 1e14 + 1e6 / 1e12)
    assert [roofline.padding(d) for d in (64, 40, 300)] == [1.0, 64 / 40, 1.0]


def test_a_convolution_that_looks_around_has_a_limit_and_copies_its_operands(gpu: Gpu) -> None:
    """3 x 3: the input is a ninth of its unfolded form. 25,600 rows, 128 columns: 100 tiles."""
    flops = 2 * 25600 * 128 * 9 * 64
    around = operator(CONVOLUTION, (1, 25600, 128, 9 * 64), flops, 25600 * 64 * 2)
    assert roofline.kernel_seconds(around, gpu)[0] == pytest.approx(flops / 5e13)
    pointed = operator(CONVOLUTION, (1, 25600, 128, 64), flops // 9, 25600 * 64 * 2)
    assert roofline.kernel_seconds(pointed, gpu)[0] == pytest.approx(flops / 9 / 1e14)
    light = operator(CONVOLUTION, (1, 25600, 128, 9 * 64), 1, 25600 * 64 * 2)
    assert roofline.kernel_seconds(light, gpu) == (pytest.approx(3 * 25600 * 64 * 2 / 1e12), "memory")


def test_a_depthwise_convolution_has_no_matrix_units(gpu: Gpu) -> None:
    flops = 2 * 9 * 10**9
    seconds, _ = roofline.kernel_seconds(operator(CONVOLUTION, (1000, 10**6, 1, 9), flops), gpu)
    assert seconds == pytest.approx(flops / (0.25 * 10e12))


def test_element_wise_work_is_bound_by_memory_or_by_addressing(gpu: Gpu) -> None:
    """1e9 bytes at 1e12 a second; 1e8 elements at 100 x 1e9 a second."""
    assert roofline.kernel_seconds(operator(POINTWISE, (10**8,), 0, 10**9), gpu) == (pytest.approx(1e-3), "memory")
    assert roofline.kernel_seconds(operator(STRIDED, (10**9,), 0, 10**9), gpu)[0] == pytest.approx(1e-2)
    assert roofline.kernel_seconds(operator(POINTWISE, (1,), 0, 4), gpu) == (1e-6, "launch")


def test_many_small_kernels_wait_for_the_host_unless_they_are_recorded(gpu: Gpu) -> None:
    """100 kernels: 100 x 10 us on the host, 100 x 1 us on the device."""
    small = [(operator(POINTWISE, (1,), 0, 4), 100)]
    time = roofline.time_of(small, gpu)
    assert (time.seconds, time.device, time.bound) == (pytest.approx(1e-3), pytest.approx(1e-4), "launch")
    assert roofline.time_of(small, gpu, graphs=True).seconds == pytest.approx(1e-4)


def test_power_follows_the_work_and_stops_at_the_limit(gpu: Gpu) -> None:
    """20 W, and 50 W x half of the rate, and 10 W x a tenth of the bandwidth: 46 W for two seconds."""
    time = roofline.Time(2.0, 2.0, {}, flops=1e14, bytes=2e11)
    assert energy.watts(time, gpu) == pytest.approx(46)
    assert energy.joules(time, gpu) == pytest.approx(92)
    assert energy.watts(replace(time, flops=1e16), gpu) == 100
    assert energy.grams_of_co2(3.6e6, 400) == 400


def test_money() -> None:
    assert money.usd(1800, 2.0, gpus=4) == 4.0
    for price in (-1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="price"):
            money.check_price(price)


def test_several_gpus_share_the_rows_and_exchange_what_attention_needs(gpu: Gpu) -> None:
    """Queries, keys, values and result of 4e9 bytes: each of 4 GPUs has 1e9 and gives three quarters away."""
    attention = operator(ATTENTION, (1, 8, 1000, 1000, 64, 64), 2 * 8 * 10**6 * 128, 4 * 10**9)
    split = parallel.degrees(4, None, None)
    assert (split.ulysses, split.ring) == (4, 1)
    assert parallel.exchange_seconds([(attention, 1)], split, gpu) == pytest.approx(0.75e9 / 1e11)
    [(part, times)] = parallel.share([(attention, 1)], split)
    assert (part.shape, times, part.flops * 4) == ((1, 2, 1000, 1000, 64, 64), 1, attention.flops)
    [(part, times)] = parallel.share([(attention, 1)], parallel.degrees(4, 1, 4))
    assert (part.shape, times, part.flops * 16) == ((1, 8, 250, 250, 64, 64), 4, attention.flops)
    product = operator(MATMUL, (1, 1000, 64, 64), 8_192_000, 300, weight_bytes=100)
    [(part, _)] = parallel.share([(product, 1)], split)
    assert (part.shape, part.flops, part.bytes_in) == ((1, 250, 64, 64), 2_048_000, 150)


def test_attention_to_a_text_is_not_exchanged(gpu: Gpu) -> None:
    across = operator(ATTENTION, (1, 8, 1000, 77, 64, 64), 1000, 10**9)
    assert parallel.exchange_seconds([(across, 1)], parallel.Degrees(4), gpu) == 0.0


@pytest.mark.parametrize(("gpus", "ulysses", "ring"), [(4, 3, None), (4, 2, 3), (2, 0, None), (1, None, 2)])
def test_degrees_that_do_not_multiply_to_the_gpus_are_refused(
    gpus: int, ulysses: int | None, ring: int | None
) -> None:
    with pytest.raises(InputError, match="must be the number of GPUs"):
        parallel.degrees(gpus, ulysses, ring)
