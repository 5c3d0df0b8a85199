"""Other packages as they are: each runs its script in peers/ by the python of its own environment.

An environment is DIR/<name>, made by `sh benchmarks/peers/make.sh DIR <name>`; DIR is given with
--peers or $WSISEG_PEERS. One that is missing or fails stops the benchmark: to leave a peer out is
said in so many words (--without), and the result says so, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

__all__ = ["PEERS", "add_options", "call", "pythons"]

SCRIPTS = Path(__file__).parent / "peers"
PEERS = {
    "tiatoolbox": "tiatoolbox_hv.py",
    "cellpose": "cellpose_dynamics.py",
    "stardist": "stardist_nms.py",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def add_options(parser: ArgumentParser) -> None:
    """--peers and --without."""
    folder = os.environ.get("WSISEG_PEERS")
    told = "folder of environments, one per peer (default: $WSISEG_PEERS)"
    parser.add_argument("--peers", type=Path, default=folder and Path(folder), help=told)
    parser.add_argument(
        "--without", nargs="+", default=[], choices=list(PEERS), metavar="PEER",
        help=f"leave out some of {', '.join(PEERS)}",
    )  # fmt: skip


def pythons(options: Namespace) -> dict[str, Path]:
    """Peer -> its python, of all that are not left out; exits saying how to make what is absent."""
    wanted = [name for name in PEERS if name not in options.without]
    folder = options.peers or Path("peers")
    found = {name: folder / name / "bin" / "python" for name in wanted}
    absent = [name for name, python in found.items() if not python.exists()]
    if absent:
        sys.exit(
            f"no environment of {', '.join(absent)} in {folder}: give another folder with --peers "
            f"or WSISEG_PEERS, make them with\n  sh {SCRIPTS / 'make.sh'} {folder} "
            f"{' '.join(absent)}\nor leave them out with\n  --without {' '.join(absent)}"
        )
    return found


def call(name: str, python: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """What the script of ``name`` prints of the windows in ``folder``; exits where it fails."""
    done = subprocess.run(
        [str(python), str(SCRIPTS / PEERS[name]), str(folder), str(repeats)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | dict.fromkeys(THREADS, "1"),
    )
    if done.returncode:
        sys.exit(
            f"{done.stderr}\nthe script of {name} failed (above): mend its environment, "
            f"or leave it out with --without {name}"
        )
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told
