"""Small SIFA-Transformers of which every weight matters, and what to feed them."""

from gopstream.models.sifa.swin import SifaTransformer
from sifa_networks import make_frames, shake

__all__ = ["make_frames", "make_transformer"]


def make_transformer(num_classes: int = 3, *, seed: int = 0, **options: object) -> SifaTransformer:
    """Make a network in float64, in evaluation mode, of two stages, for clips of 8 frames.

    In frames of 24 x 32 pixels the first stage has several windows and the second, of 4 x 3
    tokens, has one.
    """
    shape = {
        **{"num_frames": 8, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)},
        **{"window_size": 4, "stem_frames": 2, "drop_path_rate": 0.0, "head_dropout": 0.0},
    }
    model = SifaTransformer(num_classes, **(shape | options))
    return shake(model.double(), seed=seed).eval()
