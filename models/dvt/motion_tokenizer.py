"""Motion embeddings of the Deformable Video Transformer: m in equations 12 and 13.

The motion between a query frame and each sampled frame of its sub-clip is pooled to the
scale of a stage, expressed in token cells of that stage, and cut into patches by the same
kind of convolution that cuts the frames.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, section 3.2. The paper's
details are in its unpublished supplement; the form here (one tokenizer per stage, the patch
kernel of MViT) is the one that gives the paper's parameter and FLOP counts.

Dimensions: B batch, Q query token frames, J sampled frames of a sub-clip, K token frames of
a sub-clip, Y, X the motion grid, H, W the token grid, D width.
"""

import math

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from gopstream.models.dvt.patch_embedding import PatchGeometry


def clean_motion(
    motion: Tensor, *, valid: Tensor | None, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Zero the motion where it is invalid and clip it to the frame.

    Whatever stands at an invalid place is ignored, NaN included.

    Args:
        motion: (B, Q, 2, J, Y, X) floating, displacement (dx, dy) in pixels of the frame.
        valid: (B, Q, J, Y, X) bool, or None where all of it is valid.
        height: Frame height in pixels: the largest ``|dy|`` that is kept.
        width: Frame width in pixels: the largest ``|dx|`` that is kept.

    Returns:
        The clean motion, of the same shape and dtype, and the validity as
        (B, Q, 1, J, Y, X) zeros and ones of that dtype.
    """
    if valid is None:
        validity = torch.ones_like(motion[:, :, :1])
    else:
        validity = valid.unsqueeze(2).to(motion.dtype)
        motion = motion.masked_fill(~valid.unsqueeze(2), 0.0)
    limit = motion.new_tensor([width, height])[:, None, None, None]
    return torch.minimum(torch.maximum(motion, -limit), limit), validity


def pool_motion(motion: Tensor, validity: Tensor, *, height: int, width: int) -> Tensor:
    """Resample motion to another grid of the same frame, averaging what is valid.

    Equal to repeating each value over the pixels that its cell covers (block motion is
    piecewise constant) and averaging the valid pixels of each new cell, without going
    through full resolution. A cell with nothing valid has motion 0.

    Args:
        motion: (B, Q, 2, J, Y, X) from `clean_motion`.
        validity: (B, Q, 1, J, Y, X) zeros and ones from `clean_motion`.
        height: Rows of the new grid.
        width: Columns of the new grid.

    Returns:
        (B, Q, 2, J, height, width), in the unit and dtype of `motion`.
    """
    rows, columns = motion.shape[-2:]
    fine_rows, fine_columns = math.lcm(rows, height), math.lcm(columns, width)
    weighted = torch.cat([motion * validity, validity], dim=2)
    cells = {"yr": fine_rows // rows, "xr": fine_columns // columns}
    weighted = repeat(weighted, "b q c j y x -> b q c j (y yr) (x xr)", **cells)
    if (fine_rows, fine_columns) != (height, width):
        cells = {"yr": fine_rows // height, "xr": fine_columns // width}
        weighted = reduce(weighted, "b q c j (y yr) (x xr) -> b q c j y x", "sum", **cells)
    total, count = weighted[:, :, :2], weighted[:, :, 2:]
    return total / count.clamp(min=1.0)


class MotionTokenizer(nn.Module):
    """Turn motion into one embedding per query token and token frame of its sub-clip.

    Every block of a stage uses the tokens of the stage's one tokenizer. Output k is centred
    on sampled frame ``k * stride[0]`` of the sub-clip, as value frame k is.
    """

    def __init__(self, width: int, *, patches: PatchGeometry, downsampling: int) -> None:
        """Build the tokenizer of one stage.

        Args:
            width: D, the attention width of the stage.
            patches: Over (sampled frames, rows, columns), that of the frames.
            downsampling: r, how much coarser the stage's query grid is than the first.
        """
        super().__init__()
        self.downsampling = downsampling
        # (dx, dy) in pixels divided by this is in token cells of the stage.
        self.cell_size = (patches.stride[2] * downsampling, patches.stride[1] * downsampling)
        self.projection = nn.Conv3d(
            2, width, patches.kernel, stride=patches.stride, padding=patches.padding
        )

    def forward(self, motion: Tensor, validity: Tensor, *, height: int, width: int) -> Tensor:
        """Embed the motion.

        Args:
            motion: (B, Q, 2, J, Y, X) from `clean_motion`, pixels of the frame.
            validity: (B, Q, 1, J, Y, X) from `clean_motion`.
            height: Frame height in pixels.
            width: Frame width in pixels.

        Returns:
            (B, Q, K, H, W, D) motion tokens, in the dtype of the weights.
        """
        pooled = pool_motion(
            motion,
            validity,
            height=height // self.downsampling,
            width=width // self.downsampling,
        )
        in_cells = pooled / pooled.new_tensor(self.cell_size)[:, None, None, None]
        volume = rearrange(in_cells, "b q c j y x -> (b q) c j y x")
        patches = self.projection(volume.to(self.projection.weight.dtype))
        tokens: Tensor = rearrange(patches, "(b q) d k h w -> b q k h w d", b=motion.shape[0])
        return tokens
