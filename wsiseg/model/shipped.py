"""Weights that come with the package: which there are, found by folder, told by header alone."""

from __future__ import annotations

from pathlib import Path

from wsiseg.model.weights import FILE_NAME

__all__ = ["ROOT", "shipped"]

ROOT = Path(__file__).resolve().parents[1] / "weights"
"""Folder of ``<name>/{model.safetensors, card.md, LICENSE}``; it need not exist."""


def shipped(root: Path | None = None) -> dict[str, Path]:
    """Name -> weights folder in ``root`` (by default ``ROOT``), by name; nothing is opened."""
    return {file.parent.name: file.parent for file in sorted((root or ROOT).glob(f"*/{FILE_NAME}"))}
