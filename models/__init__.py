"""Video classifiers: tensors in, logits out; nothing here knows files, shards or jobs."""

import torch
from einops import rearrange, reduce, repeat

from gopstream.models.catalogue import create_model, find_model, list_models

__all__ = ["create_model", "find_model", "list_models"]

# A compiler that traces the Python of einops takes two to three times as long for a network.
for _operation in (rearrange, reduce, repeat):
    torch.compiler.allow_in_graph(_operation)  # type: ignore[no-untyped-call]  # torch has no types
