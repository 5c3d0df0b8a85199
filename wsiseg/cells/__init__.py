"""Part of wsiseg: cells."""
