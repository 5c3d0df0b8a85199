"""Storage: paths of this machine and URLs that fsspec opens, read by the same few calls."""
