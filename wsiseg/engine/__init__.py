"""Part of wsiseg: engine."""
