"""How wide the stages of a Swin are."""

from collections.abc import Sequence

from gopstream.models.layers.sizes import require_positive


def stage_widths(embed_dim: int, *, depths: Sequence[int], num_heads: Sequence[int]) -> list[int]:
    """Return C of each stage; refuses stages that do not fit each other."""
    if not depths or len(depths) != len(num_heads):
        raise ValueError(
            f"depths and num_heads must have one number for each stage, "
            f"got {tuple(depths)} and {tuple(num_heads)}"
        )
    require_positive({"embed_dim": embed_dim, "depths": depths, "num_heads": num_heads})
    widths = [embed_dim * 2**stage for stage in range(len(depths))]
    for stage, (width, heads) in enumerate(zip(widths, num_heads, strict=True)):
        if width % heads:
            raise ValueError(
                f"num_heads must divide the width of each stage, got {heads} heads for "
                f"{width} channels in stage {stage}"
            )
    return widths
