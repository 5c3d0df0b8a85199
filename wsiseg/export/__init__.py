"""Cells into files that QuPath and GeoPandas open, and back."""

from wsiseg.export.exportable import exportable
from wsiseg.export.write import (
    WRITERS,
    Written,
    write,
    write_all,
    write_csv,
    write_geojson,
    write_parquet,
)

__all__ = [
    "WRITERS",
    "Written",
    "exportable",
    "write",
    "write_all",
    "write_csv",
    "write_geojson",
    "write_parquet",
]
