"""Part of wsiseg: model."""
