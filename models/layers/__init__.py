"""Layers that more than one family of models uses."""

from gopstream.models.layers.drop_path import DropPath, drop_path, drop_path_rates

__all__ = ["DropPath", "drop_path", "drop_path_rates"]
