"""Part of wsiseg: run."""
