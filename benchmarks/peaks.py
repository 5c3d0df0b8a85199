"""What the machine can do at most: matrix products and copies, on one and on all cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from record import cores

__all__ = ["CAPACITY", "machine_peaks"]

GEMM_SIZES = (512, 1024, 2048)
COPIES = {"L2": 256 << 10, "L3": 4 << 20, "memory": 256 << 20}
"""Bytes of source and of target, each, for caches of 1 MB and some 10 MB."""
CAPACITY = {"L2": 1 << 20, "L3": 16 << 20}
"""Bytes up to which what is touched counts as lying in that cache."""
LEAST_COPY = 8 << 20  # bytes between two looks at the clock

Work = Callable[[], Any]


def machine_peaks(seconds: float) -> dict[str, Any]:
    """Peaks by number of threads, each thread with work of its own, as forwards are run.

    ``seconds``: how long each thread tries each of them.
    """
    return {str(threads): _peaks(threads, seconds) for threads in sorted({1, cores()})}


def _peaks(threads: int, seconds: float) -> dict[str, Any]:
    return {
        "bf16_gflop_s": round(_gemm(torch.bfloat16, threads, seconds) / 1e9, 1),
        "fp32_gflop_s": round(_gemm(torch.float32, threads, seconds) / 1e9, 1),
        "copy_gb_s": {
            name: round(_copy(size, threads, seconds) / 1e9, 1) for name, size in COPIES.items()
        },
    }


def _gemm(dtype: torch.dtype, threads: int, seconds: float) -> float:
    """Best FLOP/s of square matrix products."""

    def product(n: int) -> Work:
        a, b = torch.rand(n, n).to(dtype), torch.rand(n, n).to(dtype)
        return lambda: a @ b

    return max(per_second(lambda n=n: product(n), 2 * n**3, threads, seconds) for n in GEMM_SIZES)


def _copy(size: int, threads: int, seconds: float) -> float:
    """Bytes/s of copies of ``size`` bytes, counting those read and those written."""
    times = max(1, LEAST_COPY // size)

    def copies() -> Work:
        source = torch.ones(size, dtype=torch.uint8)
        target = torch.empty_like(source)
        return lambda: [target.copy_(source) for _ in range(times)]

    return per_second(copies, 2.0 * size * times, threads, seconds)


def per_second(make: Callable[[], Work], amount: float, threads: int, seconds: float) -> float:
    """Largest ``amount`` per second of ``threads`` threads at once, each with a work of its own.

    By the processor time of each thread, as operators are timed; waiting for memory counts.
    """
    works = [make() for _ in range(threads)]

    def fastest(work: Work) -> float:
        torch.set_num_threads(1)  # each thread of ours has a setting of its own
        work()
        least, end = float("inf"), time.thread_time() + seconds
        while time.thread_time() < end:
            began = time.thread_time()
            work()
            least = min(least, time.thread_time() - began)
        return amount / least

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(fastest, works))
