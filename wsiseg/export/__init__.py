"""Part of wsiseg: export."""
