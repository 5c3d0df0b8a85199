"""The layers and walls of docs/architecture.md, held by the imports themselves."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsiseg

ROOT = Path(wsiseg.__file__).parent

# each room may import from the rooms of the rows above it, and from itself
LAYERS = [
    {"errors", "jit", "limits", "pulse"},
    {"atomic", "cores", "hashing", "heap", "interrupt", "settings"},
    {"storage"},
    {"geometry", "stain"},
    {"image", "cells", "model", "metrics"},
    {"synth"},
    {"engine"},
    {"export", "training"},
    {"run"},
    {"archive"},
    {"cli"},
]
COMMANDS = {f"cli.{path.stem}" for path in (ROOT / "cli").glob("*.py")}
WALLS = {
    "torch": {"model.zoo"}
    | {f"model.unet.{n}" for n in ("fused", "lanes", "local", "network", "openvino", "ranges")}
    | {
        f"training.{n}"
        for n in ("average", "finetune", "log", "loop", "losses", "product", "start", "state")
    },
    "openvino": {"model.unet.openvino"},
    "distributed": {"engine.cluster", "engine.spread"},
    "dask_jobqueue": {"archive.jobs"},
    "fsspec": {"storage.guarded", "storage.remote"},
    "openslide": {"image.formats.openslide"},
    "pydicom": {"image.formats.dicom"},
    "tifffile": {"image.formats.tiff", "image.labels", "synth.pyramid"},
    "zarr": {"image.formats.ome_zarr", "image.views", "image.slide"},  # the last for types only
    "typer": COMMANDS,
    "rich": {"cli.progress"},
}
LIGHT = ("torch", "geopandas", "pandas", "dask", "distributed", "zarr", "numba", "pyarrow", "cv2")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(p for p in parts if p != "__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py")}


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            for alias in node.names:  # ``from package import module`` imports the module
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("wsiseg.") in NAMES else node.module or ""


def layer(room: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if room in rooms)


MODULES = dict(modules())


@pytest.mark.parametrize("name", [n for n in MODULES if n not in ("", "__main__")])
def test_a_module_imports_only_from_the_layers_above(name: str) -> None:
    room = name.split(".")[0]
    for target in imports(MODULES[name]):
        if not target.startswith("wsiseg."):
            continue
        other = target.split(".")[1]
        if other == room:
            continue
        assert layer(other) < layer(room), f"{name} must not import {target}"


@pytest.mark.parametrize("library", WALLS)
def test_a_library_stays_behind_its_wall(library: str) -> None:
    users = {n for n, tree in MODULES.items() for t in imports(tree) if t.split(".")[0] == library}
    assert users <= WALLS[library]


def test_only_the_command_line_prints() -> None:
    calls = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert calls <= COMMANDS


@pytest.mark.parametrize("module", ["wsiseg", "wsiseg.cli"])
def test_importing_is_light(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {LIGHT!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_are_no_import_cycles() -> None:
    graph = {
        name: {
            t.removeprefix("wsiseg.")
            for t in imports(tree)
            if t.startswith("wsiseg.") and t.removeprefix("wsiseg.") in MODULES
        }
        for name, tree in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
