"""Dask workers against one: area per second once all are warm.

Each number of workers, of one thread each, works as in a run through the regions of a slide that is
larger than its time allows: the densest field of the biopsy, repeated. Counted are the regions that
end after the first ``--warm`` seconds, by the area of their patch cores. Several rounds in turn,
since machines have moods. Workers remember patches that neighbouring regions share, each only its
own: ``patches_over_needed`` tells how many went through the network for each that had to, and
``gain_in_patches`` leaves that out.

python benchmarks/scaling.py [--workers 1 2] [--minutes 3] [--rounds 1] [--region 1024] [--quick]
"""

from __future__ import annotations

import json
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from biopsy import options_for, plan_for, slide_at
from counting import Counting, Timed
from record import finish
from replay import repeat, write_block

from wsiseg.engine.executor import Dask
from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.engine.segment import RegionWork, in_bands, region_grid, regions_to_do
from wsiseg.geometry import Box, Tile
from wsiseg.run.memory import Budget
from wsiseg.run.plan import Plan

FIELD, TIMES = 3072, 3  # px of the field in each block, and units along a side: 2.4 Gpx, 190 mm²
STAGES = ("read", "network", "decode")

Told = dict[str, float]


def work_of(plan: Plan, region: int) -> Timed:
    """What a worker does."""
    model = Counting(plan.model)
    maps = PatchMaps(plan.slide, model, plan.space, plan.active)
    return Timed(RegionWork(maps, model, region_grid(plan.space, plan.spec, region)), model)


def in_order(plan: Plan, workers: int, region: int) -> list[Tile]:
    """The regions as a run gives them out."""
    grid = region_grid(plan.space, plan.spec, region)
    tiles = regions_to_do(grid, plan.space, plan.spec, plan.active)
    return list(in_bands(tiles, Budget(None, workers, 0, None).band(plan, region), workers))


def finished(plan: Plan, workers: int, options: Namespace) -> Iterator[tuple[float, Tile, Told]]:
    """When each region ended, seconds from the start, until the time is up."""
    work = work_of(plan, options.region)
    tiles = in_order(plan, workers, options.region)
    with Dask(workers) as executor, closing(executor.map(work, tiles)) as done:
        began = time.perf_counter()
        for tile, told in done:
            now = time.perf_counter() - began
            if now > options.warm + 60 * options.minutes:
                return
            yield now, tile, told


def measure(plan: Plan, workers: int, options: Namespace) -> Told:
    """Rates of ``workers`` processes once warm."""
    sums: Counter[str] = Counter()
    ends: list[float] = []
    for now, tile, told in finished(plan, workers, options):
        if now < options.warm:
            continue
        if ends:  # what ends first began before
            px, needed = owned(plan, tile.core)
            sums.update(told)
            sums.update(regions=1, px=px, needed=needed)
        ends.append(now)
    seconds = ends[-1] - ends[0]
    return {
        "wall_s": round(seconds, 2),
        "regions": sums["regions"],
        "mpx_s": round(sums["px"] / 1e6 / seconds, 3),
        "patches_s": round(sums["patches"] / seconds, 3),
        "patches_over_needed": round(sums["patches"] / sums["needed"], 3),
        "busy": round(sums["cpu"] / seconds / workers, 3),
        "network_share": round(sums["network"] / sum(sums[stage] for stage in STAGES), 3),
    }


def owned(plan: Plan, box: Box) -> tuple[int, float]:
    """Pixels of the cores of patches that are run, inside ``box``, and how many patches that is."""
    grid = patch_grid(plan.space, plan.spec)
    cores = [tile.core for tile in grid.overlapping(box) if plan.active[tile.index]]
    sizes = [(core.intersect(box).size, core.size) for core in cores]
    return sum(inside for inside, _ in sizes), sum(inside / size for inside, size in sizes)


@contextmanager
def larger(options: Namespace) -> Iterator[Path]:
    """A slide that nobody works through in the time."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        if options.quick:
            yield stack.enter_context(slide_at(options.slide, quick=True))
            return
        folder = Path(name)
        write_block(folder, FIELD)
        repeat(folder / "block.tif", TIMES, folder / "slide.tif")
        yield folder / "slide.tif"


def gains(rounds: list[dict[str, Told]], key: str) -> dict[str, list[float]]:
    """Of each number of workers over the first, by round."""
    base, *more = rounds[0]
    return {n: [round(told[n][key] / told[base][key], 3) for told in rounds] for n in more}


def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--region", type=int, default=1024)
    parser.add_argument("--minutes", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--warm", type=float, default=20.0, help="seconds that are not counted")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if options.quick:
        options.region, options.minutes, options.warm = 512, 0.5, 0.0
    rounds = []
    with larger(options) as slide:
        plan = plan_for(slide, options.model)
        for _ in range(options.rounds):
            rounds.append({str(n): measure(plan, n, options) for n in options.workers})
            print(json.dumps(rounds[-1], indent=2), flush=True)
    result = {key: getattr(options, key) for key in ("model", "region", "minutes", "warm")} | {
        "slide": f"fields of {FIELD} px, repeated" if not options.quick else slide.name,
        "rounds": rounds,
        "gain": gains(rounds, "mpx_s"),
        "gain_in_patches": gains(rounds, "patches_s"),
    }
    print(json.dumps({key: result[key] for key in ("gain", "gain_in_patches")}))
    finish("scaling", result, quick=options.quick)


if __name__ == "__main__":
    main()
