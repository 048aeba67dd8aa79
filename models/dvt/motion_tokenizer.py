"""Motion embeddings of the Deformable Video Transformer: m in equations 12 and 13.

The motion between a query frame and each sampled frame of its sub-clip is pooled to the
scale of a stage, expressed in token cells of that stage, and cut into patches by the same
kind of convolution that cuts the frames.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, section 3.2. The paper's
details are in its unpublished supplement; the form here (one tokenizer per stage, the patch
kernel of MViT) is the one that gives the paper's parameter and FLOP counts.

Table 1 compares motion with other cues; they go the same way, in their own unit and with three
channels.

Dimensions: B batch, Q query token frames, C channels (2, or 3 for RGB), J sampled frames of a
sub-clip, K target frames of a sub-clip (token frames, or J), Y, X the motion grid, H, W the
token grid, D width.
"""

import math

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional

from gopstream.models.dvt.options import CueOptions
from gopstream.models.dvt.patch_embedding import PatchGeometry


def mask_invalid(cue: Tensor, *, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Zero a cue where it is invalid; whatever stands there is ignored, NaN included.

    Args:
        cue: (B, Q, C, J, Y, X) floating.
        valid: (B, Q, J, Y, X) bool, or None where all of it is valid.

    Returns:
        The masked cue, of the same shape and dtype, and the validity as (B, Q, 1, J, Y, X)
        zeros and ones of that dtype.
    """
    if valid is None:
        return cue, torch.ones_like(cue[:, :, :1])
    validity = valid.unsqueeze(2)
    return cue.masked_fill(~validity, 0.0), validity.to(cue.dtype)


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
    motion, validity = mask_invalid(motion, valid=valid)
    limit = motion.new_tensor([width, height])[:, None, None, None]
    return torch.minimum(torch.maximum(motion, -limit), limit), validity


def pool_motion(motion: Tensor, validity: Tensor, *, height: int, width: int) -> Tensor:
    """Resample motion to another grid of the same frame, averaging what is valid.

    Equal to repeating each value over the pixels that its cell covers (block motion is
    piecewise constant) and averaging the valid pixels of each new cell, without going
    through full resolution. A cell with nothing valid has motion 0.

    Args:
        motion: (B, Q, C, J, Y, X) from `clean_motion`, or another cue from `mask_invalid`.
        validity: (B, Q, 1, J, Y, X) zeros and ones from there.
        height: Rows of the new grid.
        width: Columns of the new grid.

    Returns:
        (B, Q, C, J, height, width), in the unit and dtype of `motion`.
    """
    rows, columns = motion.shape[-2:]
    fine_rows, fine_columns = math.lcm(rows, height), math.lcm(columns, width)
    weighted = torch.cat([motion * validity, validity], dim=2)
    cells = {"yr": fine_rows // rows, "xr": fine_columns // columns}
    weighted = repeat(weighted, "b q c j y x -> b q c j (y yr) (x xr)", **cells)
    if (fine_rows, fine_columns) != (height, width):
        cells = {"yr": fine_rows // height, "xr": fine_columns // width}
        weighted = reduce(weighted, "b q c j (y yr) (x xr) -> b q c j y x", "sum", **cells)
    total, count = weighted[:, :, :-1], weighted[:, :, -1:]
    return total / count.clamp(min=1.0)


class MotionTokenizer(nn.Module):
    """Turn a cue into one embedding per query token and target frame of its sub-clip.

    Every block of a stage uses the tokens of the stage's one tokenizer. With targets "tokens"
    output k is centred on sampled frame ``k * stride[0]`` of the sub-clip, as value frame k is;
    with "frames" output j is centred in the same way on sampled frame j.
    """

    def __init__(
        self,
        width: int,
        *,
        patches: PatchGeometry,
        downsampling: int,
        options: CueOptions | None = None,
    ) -> None:
        """Build the tokenizer of one stage.

        Args:
            width: D, the attention width of the stage.
            patches: Over (sampled frames, rows, columns), that of the frames.
            downsampling: r, how much coarser the stage's query grid is than the first.
            options: What is tokenized; None for motion as the paper has it.
        """
        super().__init__()
        self.options = CueOptions() if options is None else options
        self.downsampling = downsampling
        # (dx, dy) in pixels divided by this is in token cells of the stage.
        self.cell_size = (patches.stride[2] * downsampling, patches.stride[1] * downsampling)
        stride, padding = patches.stride, patches.padding
        self.frame_padding: tuple[int, int] | None = None
        if self.options.targets == "frames":
            # The output of frame 0 covers the frames that token frame 0 covers.
            self.frame_padding = (padding[0], patches.kernel[0] - 1 - padding[0])
            stride, padding = (1, *stride[1:]), (0, *padding[1:])
        self.projection = nn.Conv3d(
            self.options.channels, width, patches.kernel, stride=stride, padding=padding
        )

    def forward(self, motion: Tensor, validity: Tensor, *, height: int, width: int) -> Tensor:
        """Embed a cue that comes from outside.

        Args:
            motion: (B, Q, 2, J, Y, X) from `clean_motion`, pixels of the frame, or
                (B, Q, 3, J, Y, X) RGB from `mask_invalid`, which enters as it is.
            validity: (B, Q, 1, J, Y, X) from there.
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
        return self.embed(self._in_cells(pooled) if self.options.cue == "motion" else pooled)

    def embed(self, volume: Tensor) -> Tensor:
        """Cut a cue on the stage's own pixels, (B, Q, C, J, Y, X), into tokens as `forward`."""
        batch = volume.shape[0]
        volume = rearrange(volume, "b q c j y x -> (b q) c j y x")
        if self.frame_padding is not None:
            volume = functional.pad(volume, (0, 0, 0, 0, *self.frame_padding))
        patches = self.projection(volume.to(self.projection.weight.dtype))
        tokens: Tensor = rearrange(patches, "(b q) d k h w -> b q k h w d", b=batch)
        return tokens

    def _in_cells(self, motion: Tensor) -> Tensor:
        in_cells = motion / motion.new_tensor(self.cell_size)[:, None, None, None]
        if self.options.scaling == "asinh":
            return in_cells.asinh()
        return in_cells.tanh() if self.options.scaling == "tanh" else in_cells
