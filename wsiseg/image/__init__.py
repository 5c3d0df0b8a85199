"""Part of wsiseg: image."""
