"""Part of wsiseg: archive, many slides into one folder, of which nothing is lost."""
