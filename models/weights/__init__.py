"""Weights of other code: files read safely, names mapped readably, every key accounted for."""
