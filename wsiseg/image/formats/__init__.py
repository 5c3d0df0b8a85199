"""Part of wsiseg: image/formats."""
