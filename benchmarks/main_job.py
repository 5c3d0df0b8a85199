"""The main job from the command line: seconds per stage, memory, cells.

python benchmarks/main_job.py SLIDE [SLIDE ...] [-- options of `wsiseg segment`]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import save

KEPT = ("cells", "tissue_mm2", "analysed_mm2", "dropped", "seconds", "peak_rss_bytes", "grid")


def measure(slide: str, options: list[str]) -> dict[str, Any]:
    """Run one slide in a fresh folder and keep what matters of its record."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["segment", slide, "--out", str(out), "--json", *options]
        done = subprocess.run(
            [sys.executable, "-m", "wsiseg", *words], stdout=subprocess.PIPE, text=True, check=True
        )
        facts = json.loads(done.stdout)
        files = {name: (out / name).stat().st_size for name in facts["files"]}
    seconds = facts["seconds"]
    per_mm2 = (seconds["total"] - seconds["startup"]) / facts["analysed_mm2"]
    kept = {name: facts[name] for name in KEPT}
    return kept | {"file_bytes": files, "seconds_per_analysed_mm2": round(per_mm2, 3)}


def main() -> None:
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    slides, options = words[:cut], words[cut + 1 :]
    results = {Path(slide).name: measure(slide, options) for slide in slides}
    path = save("main_job", {"options": options, "slides": results})
    print(json.dumps(results, indent=2))
    print(f"written to {path.name}")


if __name__ == "__main__":
    main()
