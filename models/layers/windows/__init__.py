"""Attention in windows: their grid, tables, patches and the stages of a Swin."""
