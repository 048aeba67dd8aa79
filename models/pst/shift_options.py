"""What shifts in which blocks, and what the options must be for it."""

from collections.abc import Callable, Sequence, Set
from typing import Final, NamedTuple, get_args

from gopstream.models.layers.channel_shift import ChannelBoundary
from gopstream.models.layers.choices import require_choice
from gopstream.models.layers.patterns import OffsetSign, Pattern, freeze_pattern
from gopstream.models.layers.sizes import require_positive
from gopstream.models.layers.unused_options import refuse_unused
from gopstream.models.layers.windows.attention_tables import WindowPlan
from gopstream.models.layers.windows.relative_position import PositionRule, PositionTable
from gopstream.models.pst.stage import BlockKind

_PLAIN: Final = ("plain", "plain")


class ShiftOptions(NamedTuple):
    """Options of `PatchShiftTransformer`, which says what each means."""

    block_kinds: tuple[BlockKind, BlockKind]
    shift_stages: Sequence[int] | None
    pattern: Pattern
    offset_sign: OffsetSign
    shift_back: bool
    shift_positions: bool
    channel_folds: int
    channel_boundary: ChannelBoundary

    def kinds_of(self, stage: int) -> tuple[BlockKind, BlockKind]:
        """Return the kinds of a stage's even and odd blocks."""
        shifts = self.shift_stages is None or stage in self.shift_stages
        return self.block_kinds if shifts else _PLAIN

    @property
    def kinds_in_use(self) -> set[BlockKind]:
        """The kinds of the stages that shift."""
        shifts = self.shift_stages is None or len(self.shift_stages) > 0
        return set(self.block_kinds if shifts else _PLAIN)


_USED_BY: Final[dict[BlockKind, tuple[str, ...]]] = {
    "tcs": ("channel_folds", "channel_boundary"),
    "tps": ("pattern", "offset_sign", "shift_back", "shift_positions"),
}


def check_shifts(
    options: ShiftOptions,
    *,
    constructor: Callable[..., object],
    num_stages: int,
    head_dim: int,
) -> None:
    """Refuse values that are no choice, do not fit the stages, or would have no effect.

    Args:
        options: What was given.
        constructor: Whose defaults count as not given.
        num_stages: Of the network.
        head_dim: Channels of the narrowest head.

    Raises:
        ValueError: Naming the option.
    """
    kinds, stages = tuple(options.block_kinds), options.shift_stages
    if len(kinds) != 2:
        raise ValueError(f"block_kinds must be two, of even and of odd blocks, got {kinds}")
    for kind in kinds:
        require_choice("block_kinds", kind, choices=get_args(BlockKind))
    require_choice("offset_sign", options.offset_sign, choices=get_args(OffsetSign))
    require_choice("channel_boundary", options.channel_boundary, choices=get_args(ChannelBoundary))
    freeze_pattern(options.pattern)
    if stages is not None and not set(stages) <= set(range(num_stages)):
        raise ValueError(
            f"shift_stages must be stages from 0 to {num_stages - 1}, got {tuple(stages)}"
        )
    in_use = options.kinds_in_use
    if "tcs" in in_use:
        _check_folds(options.channel_folds, head_dim=head_dim)
    for used_by, names in _USED_BY.items():
        if used_by not in in_use:
            given = {name: getattr(options, name) for name in names}
            # Where no patch moves, "none" is what happens.
            if options.pattern == "none":
                given.pop("pattern", None)
            refuse_unused(constructor, given=given, reason=f"no block is {used_by!r}")
    if stages is not None and not stages:
        refuse_unused(constructor, given={"block_kinds": kinds}, reason="shift_stages has no stage")
    elif kinds == _PLAIN:
        refuse_unused(constructor, given={"shift_stages": stages}, reason="all blocks are 'plain'")


def _check_folds(folds: int, *, head_dim: int) -> None:
    if folds < 2:
        raise ValueError(f"channel_folds must be at least 2, got {folds}")
    if head_dim < folds:
        raise ValueError(
            f"heads of {head_dim} channels have none to shift with channel_folds={folds}; "
            "give fewer heads, or another block_kinds than tcs"
        )


def plan_all_windows(
    options: ShiftOptions, *, window: tuple[int, int], rpe: PositionRule, table_frames: int
) -> WindowPlan:
    """Return the windows that blocks of all kinds have in common.

    Args:
        options: What shifts.
        window: Token frames of a window; its rows, as many as its columns.
        rpe: How frames are counted for the positions.
        table_frames: That the table of positions covers.

    Raises:
        ValueError: Naming the option that is no choice, or does not go with the others.
    """
    require_choice("rpe", rpe, choices=get_args(PositionRule))
    frames, side = window
    require_positive({"temporal_window": frames, "window_size": side, "table_frames": table_frames})
    if rpe == "official" and frames != 1:
        raise ValueError(
            f"rpe='official' exists for temporal_window=1 only, got {frames}; give rpe='paper'"
        )
    return WindowPlan(
        window=(frames, side, side),
        rolled=False,
        pattern=freeze_pattern(options.pattern),
        sign=options.offset_sign,
        shift_back=options.shift_back,
        phase=None,
        positions=PositionTable(table_frames, (side, side), rpe, options.shift_positions),
    )


def check_table(windows: WindowPlan, *, token_frames: int, kinds: Set[BlockKind]) -> None:
    """Refuse a table of positions that ends before the clip does.

    Args:
        windows: As all blocks have them.
        token_frames: Of the clip that the model is made for.
        kinds: Of all blocks.

    Raises:
        ValueError: Naming table_frames and what it must be.
    """
    positions = windows.positions
    # Without patches that move, differences end with the window.
    moved = positions.moved and "tps" in kinds
    whole = positions.rule == "official" or moved
    needed = token_frames if whole else min(windows.window[0], token_frames)
    if positions.frames < needed:
        raise ValueError(
            f"table_frames must be at least {needed}, as the clip's frames are {token_frames} "
            f"token frames, got {positions.frames}"
        )
