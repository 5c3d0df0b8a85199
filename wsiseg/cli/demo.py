"""``wsiseg demo``: a slide whose cells are known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wsiseg.cli.options import AsJson
from wsiseg.cli.say import say, say_licence, show_json
from wsiseg.cli.segment import run_job

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo slide and its cells.")] = Path(
        "wsiseg-demo"
    ),
    as_json: AsJson = False,
) -> None:
    """Make a synthetic H&E slide with known cells, segment it, and compare."""
    from wsiseg.run.demo import demo_slide, demo_text, score_demo
    from wsiseg.run.job import Job

    say(f"making a synthetic slide in {out} (a first run also compiles, once, for a while) ...")
    slide = demo_slide(out)
    job = Job(slide=slide.path, out=out, fresh=True)
    if not as_json:
        say_licence(None)
    facts = run_job(job, quiet=as_json, as_json=False, began=time.time())
    scores = score_demo(slide, out)
    if as_json:
        show_json(facts | {"demo": scores})
    else:
        print(demo_text(scores, out))
