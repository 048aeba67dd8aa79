"""Group the slices of an H.264 stream into pictures, and tally what tells of their decoding.

Names with underscores and clauses are those of ITU-T H.264 (2021-08). A picture here is a frame,
or the two fields of one.
"""

from collections import Counter
from typing import Final, NamedTuple

from gopstream.pipeline.h264_slices import DATA_PARTITION, IDR, SliceHeader
from gopstream.pipeline.h264_syntax import PictureParameters, SequenceParameters

_I, _P, _B = range(3)
# slice_type modulo 5 (P, B, I, SP, SI) to the type of a picture with such a slice.
_TYPES: Final = (_P, _B, _I, _P, _I)
_FIRST_SWITCHING_TYPE: Final = 3
_REMARKED, _ALL_UNMARKED = 1, 2


class GroupLengths(NamedTuple):
    """Pictures from one I-picture to the next."""

    minimum: int
    median: int
    maximum: int


class PictureTally:
    """Counts over the pictures of one stream; its slices come in decoding order."""

    def __init__(self) -> None:
        """Start before the first slice."""
        self.sps: SequenceParameters | None = None
        self.num_by_type = [0, 0, 0]
        """Pictures of type I, P and B: with a B slice, else with a P slice, else neither. Of two
        fields the first decides."""
        self.num_idr = 0
        self.num_parameter_changes = 0
        self.num_number_gaps = 0
        self.num_non_reference = 0
        self.max_slices = 0
        self.max_references_p = 0
        self.max_references_b = 0
        self.num_filtered = 0
        """Slices with the deblocking filter on."""
        self.num_unfiltered = 0
        self.entropy_codings: set[bool] = set()
        """True for CABAC."""
        self.starts_with_i = False
        self.has_open_groups = False
        self.is_reordered = False
        self.is_remarked = False
        self.has_weights = False
        self.has_explicit_bi_weights = False
        self.has_implicit_bi_weights = False
        self.has_fields = False
        self.has_adaptive_frames = False
        self.may_have_fields = False
        self.has_partitions = False
        self.has_switching_slices = False
        self._key: tuple[object, ...] | None = None
        self._has_first_slice = False
        self._num_slices = 0
        self._type = _I
        self._is_idr = False
        self._order: int | None = None
        self._frame_number = 0
        self._lone_field: bool | None = None
        self._previous_order = (0, 0)
        self._previous_number: int | None = None
        self._group_length = 0
        self._groups: Counter[int] = Counter()
        self._leads: tuple[int | None] | None = None

    def add(self, header: SliceHeader, *, sps: SequenceParameters, pps: PictureParameters) -> None:
        """Count one slice, whose header has no fault."""
        if header.redundant_count > 0:  # not decoded while the primary picture is there
            return
        key = _picture_key(header)
        # A packet that is there twice has the same key twice.
        repeated = header.first_macroblock == 0 and self._has_first_slice
        if key != self._key or (repeated and not sps.separate_colour_planes):
            self._begin_picture(header, sps)
            self._key = key
        self._has_first_slice |= header.first_macroblock == 0
        self._num_slices += 1
        self._add_slice(header, sps, pps)

    def finish(self) -> None:
        """Count the last picture."""
        self._end_frame()
        self._key = None

    def group_lengths(self) -> GroupLengths | None:
        """Summarise the groups from one I-picture to the next, in decoding order.

        The last group, which the stream's end may have cut, counts as the longest if it is, and
        otherwise only if there is no other.
        None if there is no I-picture.
        """
        groups = self._groups or Counter([self._group_length] if self._group_length else [])
        if not groups:
            return None
        lengths = sorted(groups)
        remaining = (groups.total() + 1) // 2
        for median in lengths:
            remaining -= groups[median]
            if remaining <= 0:
                break
        return GroupLengths(lengths[0], median, max(lengths[-1], self._group_length))

    def _begin_picture(self, header: SliceHeader, sps: SequenceParameters) -> None:
        self.max_slices = max(self.max_slices, self._num_slices)
        self._num_slices, self._has_first_slice = 0, False
        is_second_field = (
            self._lone_field is not None
            and header.is_field == 1
            and self._lone_field != bool(header.is_bottom)
            and self._frame_number == header.frame_number
            and header.unit_kind != IDR
        )
        if is_second_field:
            self._lone_field = None
        else:
            self._end_frame()
            self._begin_frame(header, sps)
        if header.reference_idc > 0:
            unmarked = header.marking & _ALL_UNMARKED
            self._previous_number = 0 if unmarked else header.frame_number

    def _begin_frame(self, header: SliceHeader, sps: SequenceParameters) -> None:
        if self.sps is not None and sps is not self.sps and sps != self.sps:
            self.num_parameter_changes += 1
        if self.sps is None:
            self.starts_with_i = _TYPES[header.kind] == _I
        self.sps = sps
        self._type = _I
        self._is_idr = header.unit_kind == IDR
        self._lone_field = bool(header.is_bottom) if header.is_field else None
        self._frame_number = header.frame_number
        self.num_non_reference += header.reference_idc == 0
        if not self._is_idr and self._previous_number is not None:
            expected = (self._previous_number + 1) % (1 << sps.frame_number_bits)
            self.num_number_gaps += header.frame_number != expected  # 7.4.3, frame_num
        self._order = self._order_count(header, sps)

    def _order_count(self, header: SliceHeader, sps: SequenceParameters) -> int | None:
        """Return TopFieldOrderCnt of type 0 (8.2.1.1); None for the others."""
        if sps.order_count_type != 0:
            return None
        msb, previous_lsb = (0, 0) if self._is_idr else self._previous_order
        span = 1 << sps.order_count_bits
        lsb = header.order_lsb
        if lsb < previous_lsb and previous_lsb - lsb >= span // 2:
            msb += span
        elif lsb > previous_lsb and lsb - previous_lsb > span // 2:
            msb -= span
        if header.reference_idc > 0:
            self._previous_order = (msb, lsb)
        if header.marking & _ALL_UNMARKED:
            # Counting starts again here; what the picture before leads to is not told any more.
            self._previous_order = (0, 0)
            self._leads = None
        return msb + lsb

    def _add_slice(
        self, header: SliceHeader, sps: SequenceParameters, pps: PictureParameters
    ) -> None:
        picture_type = _TYPES[header.kind]
        if header.is_field == 0 or self._lone_field is not None:
            self._type = max(self._type, picture_type)
        if picture_type == _P:
            self.max_references_p = max(self.max_references_p, header.num_references_l0)
            self.has_weights |= header.has_weights == 1
        elif picture_type == _B:
            most = max(header.num_references_l0, header.num_references_l1)
            self.max_references_b = max(self.max_references_b, most)
            self.has_explicit_bi_weights |= header.has_weights == 1
            self.has_implicit_bi_weights |= pps.weighted_bipred_idc == 2
        if header.deblocking_idc == 1:
            self.num_unfiltered += 1
        else:
            self.num_filtered += 1
        self.entropy_codings.add(pps.is_cabac)
        self.is_reordered |= header.is_reordered == 1
        self.is_remarked |= header.marking & _REMARKED != 0
        self.has_partitions |= header.unit_kind == DATA_PARTITION
        self.has_switching_slices |= header.kind >= _FIRST_SWITCHING_TYPE
        if not sps.frames_only:
            self.may_have_fields = True
            self.has_fields |= header.is_field == 1
            self.has_adaptive_frames |= sps.macroblock_adaptive and header.is_field == 0

    def _end_frame(self) -> None:
        if self._key is None:
            return
        self.max_slices = max(self.max_slices, self._num_slices)
        self.num_by_type[self._type] += 1
        self.num_idr += self._is_idr
        if self._type == _I:
            if self._group_length:
                self._groups[self._group_length] += 1
            self._group_length = 1
            self._leads = None if self._is_idr else (self._order,)
            return
        self._group_length += self._group_length > 0
        if self._leads is None:
            return
        anchor = self._leads[0]
        if anchor is not None and self._order is not None:
            self.has_open_groups |= self._order < anchor
        elif self._type == _B and self.sps is not None and self.sps.order_count_type == 1:
            self.has_open_groups = True
        else:
            self._leads = None


def _picture_key(header: SliceHeader) -> tuple[object, ...]:
    """Return what differs between the slices of two pictures (7.4.1.2.4).

    Without pic_parameter_set_id: a decoder does not tell pictures apart by it, and two that
    differ in it alone there are not.
    """
    return (
        header.frame_number,
        header.is_field,
        header.is_bottom,
        header.reference_idc == 0,
        header.unit_kind == IDR,
        header.idr_pic_id,
        header.order_lsb,
        header.order_delta_bottom,
        header.order_delta_0,
        header.order_delta_1,
    )
