"""Segment an archive of slides by a TOML file, say what failed, and print the cohort.

python workflows/segment_archive.py workflows/segment_archive.toml SLIDES ARCHIVE
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq

import wsiseg
from wsiseg.errors import WsisegError


def main(config: Path, slides: str, archive: str) -> int:
    """Run or go on with the archive; 0 where every slide is done."""
    try:
        outcome = wsiseg.batch(slides, archive, config=config, on_change=tell)
    except WsisegError as error:
        print(f"nothing was run: {error}", file=sys.stderr)
        return 2
    for record in outcome.of("failed"):
        print(f"{record.slide_id}: {record.code}: {record.message}", file=sys.stderr)
    cohort = pq.read_table(f"{archive}/cohort.parquet").to_pandas()
    columns = ["slide_id", "group", "cells", "tissue_mm2", "cells_per_mm2"]
    print(cohort[columns].to_string(index=False))
    return 0 if outcome.ok else 1


def tell(record) -> None:
    """A line for each slide that has ended."""
    if record.state in ("done", "failed"):
        print(f"{record.slide_id}: {record.state}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
