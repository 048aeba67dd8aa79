"""Streams with known vectors, against which any extractor can be checked."""
