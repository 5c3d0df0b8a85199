"""What can be wrong with a set of labelled images, a question per file."""
