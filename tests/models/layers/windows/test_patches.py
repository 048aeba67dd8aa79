"""Patches of pixels as tokens, and tokens merged."""

import torch

from gopstream.models.layers.windows.patches import PatchEmbedding


@torch.no_grad()
def test_embedding_is_the_convolution():
    embedding = PatchEmbedding(8, patch_size=(2, 4, 4), norm=False)
    frames = torch.randn(1, 3, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(frames, (0, 0, 0, 3, 0, 1))
    expected = embedding.projection(padded).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(embedding(frames), expected, rtol=0, atol=1e-5)
