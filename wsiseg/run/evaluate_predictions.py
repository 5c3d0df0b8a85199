"""Predictions of an evaluation: files that are there already, or made by a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.atomic import make_folder
from wsiseg.cells.batch import CellBatch
from wsiseg.cells.build import CellRecipe, cells_of, sized
from wsiseg.engine.segment import find_objects
from wsiseg.errors import InputFileError, MissingSpacingError
from wsiseg.export.write import write
from wsiseg.image.labels import LABEL_SUFFIXES
from wsiseg.image.open import open_slide
from wsiseg.model.base import Model
from wsiseg.run.evaluate_cases import Case, class_table
from wsiseg.run.inputs import POLYGON_SUFFIXES, Polygons, read_objects

__all__ = ["FromFolder", "FromModel", "Predictions", "predict"]

Objects = NDArray[Any] | Polygons


class Predictions(Protocol):
    """Where predictions come from; the same each time it is asked."""

    def file(self, case: Case) -> Path:
        """The file that holds the prediction of a case."""
        ...

    def read(self, case: Case) -> tuple[Objects, dict[int, str]]:
        """The prediction of a case, and the classes by id where it is a label image."""
        ...


class FromFolder:
    """Files of a folder, by the name of the image.

    For ``images/a.jpg`` of the set kumar: ``images/a.*``, ``kumar/a.*`` or ``a.*``, polygons or
    label images, or a run folder of that name. Classes of a label image stand in ``a_types.csv``
    beside it. ``rename`` maps names of classes.
    """

    def __init__(self, folder: Path, rename: Mapping[str, str]) -> None:
        if not folder.is_dir():
            raise InputFileError(f"{folder}: expected a folder of predictions, one for each image")
        self._folder, self._rename = folder, rename

    def check(self, cases: Iterable[Case]) -> None:
        """Raise InputFileError where a case has no prediction: leaving it out would flatter."""
        missing = [case.name for case in cases if self._find(case) is None]
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise InputFileError(
                f"{self._folder}: no prediction for {len(missing)} image(s): {shown}; expected "
                f"{Path(missing[0]).stem} with one of {', '.join(self._suffixes)}, or a run folder "
                "of that name (an image without nuclei needs an empty file of its kind)"
            )

    def file(self, case: Case) -> Path:
        """The file that holds the prediction of ``case``."""
        found = self._find(case)
        if found is None:
            raise InputFileError(f"{self._folder}: no prediction for {case.name}")
        return found

    def read(self, case: Case) -> tuple[Objects, dict[int, str]]:
        """The prediction of ``case``, and the classes by id where it is a label image."""
        path = self.file(case)
        objects = read_objects(path)
        if isinstance(objects, Polygons):
            return renamed(objects, self._rename), {}
        return objects, class_table([path], self._rename)

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return (*POLYGON_SUFFIXES, *LABEL_SUFFIXES)

    def _find(self, case: Case) -> Path | None:
        name = case.key.name
        for stem in dict.fromkeys(
            self._folder / s for s in (case.key, Path(case.set) / name, Path(name))
        ):
            if (stem / "cells.parquet").is_file():
                return stem / "cells.parquet"
            files = (stem.with_name(stem.name + suffix) for suffix in self._suffixes)
            found = next((file for file in files if file.is_file()), None)
            if found is not None:
                return found
        return None


class FromModel:
    """Cells that a model finds, written as GeoParquet into a folder, from which they are read."""

    def __init__(self, model: Model, folder: Path, rename: Mapping[str, str]) -> None:
        self._model, self._folder, self._rename = model, folder, rename
        self._made: set[str] = set()

    def file(self, case: Case) -> Path:
        """The file of ``case``; FromFolder finds it under the same names."""
        return (self._folder / case.key).with_name(f"{case.key.name}.parquet")

    def read(self, case: Case) -> tuple[Objects, dict[int, str]]:
        """The cells of ``case``, made at the first call."""
        path = self.file(case)
        if case.name not in self._made:
            make_folder(path.parent)
            write([predict(self._model, case)], path)
            self._made.add(case.name)
        objects = read_objects(path)
        assert isinstance(objects, Polygons)
        return renamed(objects, self._rename), {}


def predict(model: Model, case: Case) -> CellBatch:
    """Cells of a whole image, as ``wsiseg.segment`` with tissue "none" finds them.

    Raises MissingSpacingError where the pixel size of the case is not known.
    """
    if case.mpp is None:
        raise MissingSpacingError(f"{case.image}: its pixel size is not known; give --unknown-mpp")
    slide = open_slide(case.image, mpp=case.mpp)
    spec = model.spec
    objects = find_objects(slide, model)
    objects = objects.take(sized(objects, spec.min_object, spec.max_object)[0])
    space = slide.at(spec.spacing)
    scale = space.scale_to(slide.space)
    recipe = CellRecipe(
        scale=(scale[0], scale[1]),
        spacing_um=(space.spacing[0], space.spacing[1]),
        classes=spec.classes,
        salt=case.name.encode(),
    )
    return cells_of(objects, recipe)


def renamed(polygons: Polygons, rename: Mapping[str, str]) -> Polygons:
    """``polygons`` with the names of their classes mapped."""
    names = [rename.get(n, n) or None if n else None for n in polygons.class_name]
    kept = np.array(names, dtype=object).reshape(len(names))
    return Polygons(polygons.geometry, kept, polygons.left_out)
