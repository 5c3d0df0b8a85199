"""What a dask scheduler costs per region, and whether anything grows with their number.

regions: empty work, one item after the other, by our executor through a real scheduler process to
real worker processes: milliseconds per region, memory of client and scheduler as it goes on, and
how many tasks are alive. planner: all regions of a slide of 10^7, chosen by tissue, put in order,
and given out to 1,000 workers: seconds and memory.

python benchmarks/scheduler.py [--regions 100000] [--workers 2] [--planned 10000000] [--quick]
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt
from typing import Any

import numpy as np
import psutil
from record import finish

from wsiseg.engine.executor import Dask
from wsiseg.engine.infer import patch_grid
from wsiseg.engine.segment import in_bands, region_grid, regions_to_do
from wsiseg.engine.shares import Shares
from wsiseg.geometry import Space
from wsiseg.model.zoo import load_model

SAMPLES = 20
"""Times at which memory is looked at."""
SEEN = ("done", "client_mb", "scheduler_mb", "alive")
LOOPBACK = "127.0.0.1"


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, psutil.Process]]:
    """Address and process of a scheduler with workers of one thread."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = str(free.getsockname()[1])
    address = f"tcp://{LOOPBACK}:{port}"
    started = [_dask("scheduler", "--port", port)]
    started += [_dask("worker", address, "--nthreads", "1", "--no-nanny") for _ in range(workers)]
    try:
        yield address, psutil.Process(started[0].pid)
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def _dask(*words: str) -> subprocess.Popen[bytes]:
    call = [sys.executable, "-m", "dask", *words, "--host", LOOPBACK, "--no-dashboard"]
    return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def regions(count: int, workers: int) -> dict[str, Any]:
    """Empty regions through a scheduler."""
    own, seen = psutil.Process(), []
    with cluster(workers) as (address, scheduler), Dask(scheduler=address) as executor:
        executor.client.wait_for_workers(workers)
        list(executor.map(abs, range(10 * workers)))  # connections are made, code is loaded
        began, cpu = time.perf_counter(), _cpu(own, scheduler)
        for done, _ in enumerate(executor.map(abs, range(count)), 1):
            if done % (count // SAMPLES) == 0:
                alive = executor.client.run_on_scheduler(_alive)
                sizes = (own.memory_info().rss, scheduler.memory_info().rss)
                seen.append((done, *(round(size / 1e6, 1) for size in sizes), alive))
        seconds = time.perf_counter() - began
        used = [b - a for a, b in zip(cpu, _cpu(own, scheduler), strict=True)]
    half = seen[len(seen) // 2 :]
    return {
        "regions": count,
        "workers": workers,
        "ms_per_region": round(1e3 * seconds / count, 3),
        "client_cpu_ms": round(1e3 * used[0] / count, 3),
        "scheduler_cpu_ms": round(1e3 * used[1] / count, 3),
        "client_mb_per_10000": _slope([(at, client) for at, client, _, _ in half]),
        "scheduler_mb_per_10000": _slope([(at, size) for at, _, size, _ in half]),
        "most_tasks_alive": max(alive for *_, alive in seen),
        "seen": [dict(zip(SEEN, values, strict=True)) for values in seen],
    }


def _alive(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def _cpu(*processes: psutil.Process) -> list[float]:
    return [sum(process.cpu_times()[:2]) for process in processes]


def _slope(points: list[tuple[int, float]]) -> float:
    """MB per 10,000 regions in the second half."""
    return round(1e4 * float(np.polyfit(*np.transpose(points), 1)[0]), 3)


def planner(count: int) -> dict[str, Any]:
    """As many regions as a square slide of that many has, a third of them with tissue."""
    spec, own = load_model("hematoxylin").spec, psutil.Process()
    side = isqrt(count) * 1536
    space = Space((side, side), spec.spacing, "µm")
    patches = patch_grid(space, spec)
    active = np.zeros(patches.counts, dtype=bool)
    active[:, : patches.counts[1] // 3] = True
    before, began = own.memory_info().rss, time.perf_counter()
    grid = region_grid(space, spec, 1536)
    todo = in_bands(regions_to_do(grid, space, spec, active), 8)
    planned = time.perf_counter() - began
    shares = Shares(len(todo), [str(i) for i in range(1000)])
    given = [shares.take(str(i % 1000)) for i in range(min(len(todo), 100_000))]
    assert len(set(given)) == len(given)
    assert all(todo[i].core for i in given[::1000] if i is not None)
    return {
        "grid": len(grid),
        "with_tissue": len(todo),
        "seconds": round(planned, 2),
        "memory_mb": round((own.memory_info().rss - before) / 1e6, 1),
        "us_per_region_given": round(1e6 * (time.perf_counter() - began - planned) / len(given), 2),
    }


def main(options: Namespace) -> None:
    result = {
        "regions": regions(options.regions, options.workers),
        "planner": planner(options.planned),
    }
    print(json.dumps(result, indent=2))
    finish("scheduler", result, quick=options.quick)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--planned", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.regions, chosen.planned = 1000, 10_000
    main(chosen)
