"""Part of wsiseg: metrics."""
