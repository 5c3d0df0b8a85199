"""Make the weights of nuclei-he again: one training for each TOML file, in their order.

python workflows/train_nuclei.py --data ../shared/data --out runs

A later stage starts from an earlier one by ``from = "$WSISEG_RUNS/STEM/weights"``, STEM being the
name of the earlier file without .toml. Interrupted, the same command goes on; what is done is not
done again. The data are those of the model card; they are not part of the package.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import wsiseg
from wsiseg.errors import WsisegError
from wsiseg.training.outcome import TrainProgress
from wsiseg.training.report import trained_text

HERE = Path(__file__).resolve().parent
STAGES = ("train_nuclei.toml", "train_nuclei_2.toml", "train_nuclei_mean.toml")


def main(words: list[str] | None = None) -> int:
    """Train by every TOML file; 1 where one failed."""
    asked = _arguments().parse_args(words)
    if asked.data is None:
        print("give the folder of the data: --data DIR, or $WSISEG_DATA", file=sys.stderr)
        return 2
    os.environ["WSISEG_DATA"] = str(asked.data.resolve())
    os.environ["WSISEG_RUNS"] = str(asked.out.resolve())
    for config in asked.configs:
        print(f"{config.stem}: {config}", file=sys.stderr)
        try:
            done = wsiseg.train(config, asked.out / config.stem, progress=_teller())
        except WsisegError as error:
            print(f"{config.stem}: failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{config.stem}: stopped and saved; the same command goes on", file=sys.stderr)
            return 130
        print(trained_text(done))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", type=Path, default=[HERE / name for name in STAGES])
    given = os.environ.get("WSISEG_DATA")
    parser.add_argument("--data", type=Path, default=Path(given) if given else None)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    return parser


def _teller():
    """Says what happens, and once a minute how far it is."""
    last = 0.0

    def tell(progress: TrainProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if progress.said:
            print(progress.said, file=sys.stderr, flush=True)
        elif now - last >= 60:
            last = now
            left = f"{progress.remaining / 60:.0f} min to go" if progress.remaining else ""
            print(
                f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f} {left}",
                file=sys.stderr,
                flush=True,
            )

    return tell


if __name__ == "__main__":
    sys.exit(main())
