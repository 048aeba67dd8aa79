"""Interpolation of one row of samples, as vector instructions.

Numba turns Python's integers into 64-bit ones, of which a vector register holds few. The rows of
H.264's interpolation need 16 bits, so that they are written here as LLVM vectors: the compiler maps
them to what the processor has (SSE2, AVX2, NEON, ...), and integer arithmetic gives the same on
each. Every operation reads all of its samples before it writes.

Each operation exists for rows of 16, 8 and 4 samples. Arrays are flat, positions count in
elements, nothing is checked: the caller knows that the samples are there.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.base import BaseContext
from numba.core.imputils import impl_ret_borrowed, impl_ret_untracked
from numba.core.typing.context import BaseContext as TypingContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numba.np import arrayobj

_I8: Final = ir.IntType(8)
_I16: Final = ir.IntType(16)
_I32: Final = ir.IntType(32)


class _Rows(NamedTuple):
    """Emits code for rows of one width; thin names over llvmlite's builder."""

    builder: ir.IRBuilder
    width: int

    def constant(self, element: ir.IntType, value: int) -> ir.Value:
        vector = ir.VectorType(element, self.width)
        return ir.Constant(vector, [value] * self.width)

    def load(self, pointer: ir.Value, offset: ir.Value, element: ir.IntType) -> ir.Value:
        vector = ir.VectorType(element, self.width)
        place = self.builder.bitcast(self.builder.gep(pointer, [offset]), vector.as_pointer())
        return self.builder.load(place, align=1)

    def load_wide(
        self, pointer: ir.Value, offset: ir.Value, element: ir.IntType, wide: ir.IntType
    ) -> ir.Value:
        """Load samples (unsigned bytes) or sums (signed 16 bits) in a wider type."""
        values = self.load(pointer, offset, element)
        extend = self.builder.zext if element is _I8 else self.builder.sext
        return extend(values, ir.VectorType(wide, self.width))

    def store(self, pointer: ir.Value, offset: ir.Value, values: ir.Value) -> None:
        place = self.builder.bitcast(self.builder.gep(pointer, [offset]), values.type.as_pointer())
        self.builder.store(values, place, align=1)

    def store_samples(self, pointer: ir.Value, offset: ir.Value, values: ir.Value) -> None:
        """Clip to 0..255 and store as bytes."""
        element = values.type.element
        for limit, comparison in ((0, "<"), (255, ">")):
            bound = self.constant(element, limit)
            beyond = self.builder.icmp_signed(comparison, values, bound)
            values = self.builder.select(beyond, bound, values)
        self.store(pointer, offset, self.builder.trunc(values, ir.VectorType(_I8, self.width)))

    def rounded(self, values: ir.Value, bits: int) -> ir.Value:
        """Divide by 2 ** bits, halves up."""
        element = values.type.element
        half = self.constant(element, 1 << (bits - 1))
        return self.builder.ashr(self.builder.add(values, half), self.constant(element, bits))

    def six_taps(
        self,
        source: ir.Value,
        offset: ir.Value,
        step: ir.Value,
        kinds: tuple[ir.IntType, ir.IntType],
    ) -> ir.Value:
        """Sum (1, -5, 20, 20, -5, 1) over samples ``step`` apart; the third is at ``offset``."""
        builder, (element, wide) = self.builder, kinds
        taps = []
        for number in range(-2, 4):
            distance = builder.mul(step, ir.Constant(step.type, number))
            taps.append(self.load_wide(source, builder.add(offset, distance), element, wide))
        outer = builder.add(taps[0], taps[5])
        middle = builder.mul(builder.add(taps[1], taps[4]), self.constant(wide, 5))
        inner = builder.mul(builder.add(taps[2], taps[3]), self.constant(wide, 20))
        return builder.add(builder.sub(outer, middle), inner)


Emit = Callable[..., None]
Typed = tuple[Signature, Callable[..., ir.Value]]


def _half(
    rows: _Rows, out: ir.Value, to: ir.Value, source: ir.Value, at: ir.Value, step: ir.Value
) -> None:
    total = rows.six_taps(source, at, step, (_I8, _I16))
    rows.store_samples(out, to, rows.rounded(total, 5))


def _sums(rows: _Rows, out: ir.Value, to: ir.Value, source: ir.Value, at: ir.Value) -> None:
    rows.store(out, to, rows.six_taps(source, at, ir.Constant(at.type, 1), (_I8, _I16)))


def _centre(
    rows: _Rows, out: ir.Value, to: ir.Value, sums: ir.Value, at: ir.Value, step: ir.Value
) -> None:
    total = rows.six_taps(sums, at, step, (_I16, _I32))
    rows.store_samples(out, to, rows.rounded(total, 10))


def _rounded_sums(rows: _Rows, out: ir.Value, to: ir.Value, sums: ir.Value, at: ir.Value) -> None:
    rows.store_samples(out, to, rows.rounded(rows.load(sums, at, _I16), 5))


def _average(rows: _Rows, out: ir.Value, to: ir.Value, source: ir.Value, at: ir.Value) -> None:
    first = rows.load_wide(out, to, _I8, _I16)
    second = rows.load_wide(source, at, _I8, _I16)
    rows.store_samples(out, to, rows.rounded(rows.builder.add(first, second), 1))


def _copy(rows: _Rows, out: ir.Value, to: ir.Value, source: ir.Value, at: ir.Value) -> None:
    rows.store(out, to, rows.load(source, at, _I8))


def _bilinear(
    rows: _Rows,
    out: ir.Value,
    to: ir.Value,
    source: ir.Value,
    at: ir.Value,
    step: ir.Value,
    fx: ir.Value,
    fy: ir.Value,
) -> None:
    builder = rows.builder
    eight, one = ir.Constant(fx.type, 8), ir.Constant(at.type, 1)
    left, above = builder.sub(eight, fx), builder.sub(eight, fy)
    total = None
    for weight, offset in (
        (builder.mul(left, above), at),
        (builder.mul(fx, above), builder.add(at, one)),
        (builder.mul(left, fy), builder.add(at, step)),
        (builder.mul(fx, fy), builder.add(builder.add(at, step), one)),
    ):
        vector = ir.VectorType(_I16, rows.width)
        lane = builder.insert_element(
            ir.Constant(vector, ir.Undefined), builder.trunc(weight, _I16), ir.Constant(_I32, 0)
        )
        zeros = ir.Constant(ir.VectorType(_I32, rows.width), [0] * rows.width)
        spread = builder.shuffle_vector(lane, ir.Constant(vector, ir.Undefined), zeros)
        part = builder.mul(rows.load_wide(source, offset, _I8, _I16), spread)
        total = part if total is None else builder.add(total, part)
    rows.store_samples(out, to, rows.rounded(total, 6))


def _operation(emit: Emit, width: int, num_scalars: int) -> Callable[..., None]:
    """Make an intrinsic (out, to, source, at, ...): arrays with positions, then plain integers."""

    def lower(
        context: BaseContext,
        builder: ir.IRBuilder,
        signature: Signature,
        arguments: Sequence[ir.Value],
    ) -> ir.Value:
        values = []
        for kind, value in zip(signature.args, arguments, strict=True):
            if isinstance(kind, types.Array):
                values.append(arrayobj.make_array(kind)(context, builder, value).data)
            else:
                values.append(context.cast(builder, value, kind, types.intp))
        emit(_Rows(builder, width), *values)
        return impl_ret_untracked(context, builder, types.none, context.get_dummy_value())

    # Numba reads the number of arguments off the signature, so that there are three.
    if num_scalars == 0:

        def plain(
            typing: TypingContext,
            out: types.Type,
            to: types.Type,
            source: types.Type,
            at: types.Type,
        ) -> Typed:
            return types.none(out, to, source, at), lower

        return cast(Callable[..., None], intrinsic(plain))
    if num_scalars == 1:

        def stepped(
            typing: TypingContext,
            out: types.Type,
            to: types.Type,
            source: types.Type,
            at: types.Type,
            step: types.Type,
        ) -> Typed:
            return types.none(out, to, source, at, step), lower

        return cast(Callable[..., None], intrinsic(stepped))

    def weighted(
        typing: TypingContext,
        out: types.Type,
        to: types.Type,
        source: types.Type,
        at: types.Type,
        step: types.Type,
        fx: types.Type,
        fy: types.Type,
    ) -> Typed:
        return types.none(out, to, source, at, step, fx, fy), lower

    return cast(Callable[..., None], intrinsic(weighted))


half_16, half_8 = _operation(_half, 16, 1), _operation(_half, 8, 1)
"""(out, to, source, at, step): half samples b (step 1) or h (a row), equations 8-241 to 8-244."""
sums_16, sums_8 = _operation(_sums, 16, 0), _operation(_sums, 8, 0)
"""(out, to, source, at): horizontal sums b1 as int16, not rounded."""
centre_16, centre_8 = _operation(_centre, 16, 1), _operation(_centre, 8, 1)
"""(out, to, sums, at, step): centre samples j from sums, equations 8-245 to 8-247."""
rounded_16, rounded_8 = _operation(_rounded_sums, 16, 0), _operation(_rounded_sums, 8, 0)
"""(out, to, sums, at): half samples b from sums."""
average_16, average_8 = _operation(_average, 16, 0), _operation(_average, 8, 0)
"""(out, to, source, at): quarter samples, the mean of what is in ``out`` and in ``source``."""
copy_16, copy_8, copy_4 = (_operation(_copy, width, 0) for width in (16, 8, 4))
"""(out, to, source, at)."""
bilinear_8, bilinear_4 = _operation(_bilinear, 8, 3), _operation(_bilinear, 4, 3)
"""(out, to, source, at, step, fx, fy): chroma at eighths, equation 8-266."""


def _flatten(typing: TypingContext, plane: types.Array) -> Typed:
    flat = types.Array(plane.dtype, 1, "C", readonly=not plane.mutable)

    def lower(
        context: BaseContext,
        builder: ir.IRBuilder,
        signature: Signature,
        arguments: Sequence[ir.Value],
    ) -> ir.Value:
        source = arrayobj.make_array(plane)(context, builder, arguments[0])
        target = arrayobj.make_array(flat)(context, builder)
        height, width = cgutils.unpack_tuple(builder, source.shape, 2)
        stride, _ = cgutils.unpack_tuple(builder, source.strides, 2)
        whole_rows = builder.mul(builder.sub(height, ir.Constant(height.type, 1)), stride)
        arrayobj.populate_array(
            target,
            data=source.data,
            shape=[builder.add(whole_rows, width)],
            strides=[source.itemsize],
            itemsize=source.itemsize,
            meminfo=source.meminfo,
            parent=source.parent,
        )
        return impl_ret_borrowed(context, builder, flat, target._getvalue())

    return flat(plane), lower


flatten = cast(Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]], intrinsic(_flatten))
"""(plane): a plane of bytes as a flat array from its first sample on, padding of rows included.
Samples of a row must lie side by side, and rows follow each other upwards."""
