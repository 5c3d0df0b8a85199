"""Training: labelled images in, weights out. ``wsiseg.train`` and ``wsiseg train`` call it."""
