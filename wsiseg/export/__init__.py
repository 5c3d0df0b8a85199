"""Cells into files that QuPath and GeoPandas open, and back."""

from wsiseg.cells.parquet import read_batches as read_parquet
from wsiseg.export.exportable import exportable
from wsiseg.export.geojson_read import read_geojson, read_region
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
    "read_geojson",
    "read_parquet",
    "read_region",
    "write",
    "write_all",
    "write_csv",
    "write_geojson",
    "write_parquet",
]
