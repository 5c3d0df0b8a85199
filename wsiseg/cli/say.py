"""Results go to standard output, all else that is said to standard error; exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["FAILED", "INTERRUPTED", "LOCKED", "TERMINATED", "USAGE"]
__all__ += ["say", "say_licence", "show_json"]

FAILED, USAGE, LOCKED, INTERRUPTED, TERMINATED = 1, 2, 75, 130, 143


def say(text: str) -> None:
    """A line of what goes on."""
    print(text, file=sys.stderr, flush=True)


def say_licence(model: str | Path | None) -> None:
    """The licence of a model before it is run; None: of the default one."""
    from dataclasses import asdict

    from wsiseg.model.zoo import model_info
    from wsiseg.run.info import licence_text

    say(licence_text(asdict(model_info(model))))


def show_json(found: Any) -> None:
    """A result for programs."""
    print(json.dumps(found, indent=2))  # in ASCII, so that any name can be printed
