"""Models: pixels in, maps out, and the decode of maps into links. Opens no slide."""
