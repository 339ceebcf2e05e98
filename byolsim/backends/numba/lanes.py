"""A value for each of several runs at once, in one vector register.

At r = 10 a matrix of one run is too small to fill a vector register along its rows. The reduced form of the moments
sampler therefore lays the matrices of `lane_count` runs side by side, as arrays (rows, columns, lanes) whose last axis
is contiguous, and computes with whole lanes: `load(M, i, j)` is the entry (i, j) of every run's M, and + - * / act on
each run by itself. A run's numbers depend neither on its lane nor on what the other lanes hold.

numba has no such type; here it is, in terms of LLVM's vectors, which exist on every processor that numba supports.

A sum over one run's numbers uses lanes too (`load_at`, `total`): its order is then written down. LLVM may compile a
kernel several times, on its own and as part of its callers, and would choose an order of its own for each copy.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typeconv import Conversion
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

VECTOR_BYTES = 32


def lane_count(dtype: Any) -> int:
    """Runs in one register: 4 of float64, 8 of float32."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


class Lanes(types.Type):
    """The numba type of one number for each lane; `dtype` is that of a single one. A number converts to it."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        self.count = 8 * VECTOR_BYTES // dtype.bitwidth
        super().__init__(name=f"Lanes({dtype})")

    def can_convert_from(self, typing: Any, other: types.Type) -> Any:
        """Numbers spread over the lanes."""
        return Conversion.safe if isinstance(other, types.Number) else None


def _vector(dtype: types.Type) -> ir.VectorType:
    real = ir.DoubleType() if dtype == types.float64 else ir.FloatType()
    return ir.VectorType(real, 8 * VECTOR_BYTES // dtype.bitwidth)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _vector(fe_type.dtype))


@intrinsic
def load(typing, M, i, j):
    """Entry (i, j) of each lane's matrix; M is (rows, columns, lanes), i and j are not negative."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, signature, arguments), align=M.dtype.bitwidth // 8)

    return Lanes(M.dtype)(M, i, j), generate


@intrinsic
def store(typing, M, i, j, value):
    """Set entry (i, j) of each lane's matrix."""

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, signature, arguments)
        builder.store(arguments[3], address, align=M.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(M, i, j, value), generate


def _address(context, builder, signature, arguments):
    kind = signature.args[0]
    array = context.make_array(kind)(context, builder, arguments[0])
    index = [context.cast(builder, arguments[k], signature.args[k], types.intp) for k in (1, 2)]
    pointer = cgutils.get_item_pointer2(
        context,
        builder,
        array.data,
        cgutils.unpack_tuple(builder, array.shape),
        cgutils.unpack_tuple(builder, array.strides),
        kind.layout,
        [*index, context.get_constant(types.intp, 0)],
        wraparound=False,
        boundscheck=False,
    )
    return builder.bitcast(pointer, _vector(kind.dtype).as_pointer())


@intrinsic
def load_at(typing, x, j):
    """The numbers x[j], x[j + 1], ... of a contiguous vector, one in each lane; they must all be there."""
    if x.ndim != 1 or x.layout != "C":
        return None

    def generate(context, builder, signature, arguments):
        array = context.make_array(x)(context, builder, arguments[0])
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        address = builder.bitcast(builder.gep(array.data, [index]), _vector(x.dtype).as_pointer())
        return builder.load(address, align=x.dtype.bitwidth // 8)

    return Lanes(x.dtype)(x, j), generate


@intrinsic
def total(typing, x):
    """The sum of the lanes: of both halves, of their halves, and so on."""

    def generate(context, builder, signature, arguments):
        vector, width = arguments[0], x.count
        while width > 1:
            width //= 2
            half = ir.VectorType(ir.IntType(32), width)
            undefined = ir.Constant(vector.type, ir.Undefined)
            low, high = (
                builder.shuffle_vector(vector, undefined, ir.Constant(half, [*range(first, first + width)]))
                for first in (0, width)
            )
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return x.dtype(x), generate


@intrinsic
def zeros(typing, M):
    """0 in every lane, in the dtype of the array M."""

    def generate(context, builder, signature, arguments):
        return _constant(M.dtype, 0.0)

    return Lanes(M.dtype)(M), generate


@intrinsic
def sqrt(typing, x):
    """The square root of each lane."""

    def generate(context, builder, signature, arguments):
        return builder.call(_function(builder, "sqrt", x.dtype, 1), arguments)

    return x(x), generate


@intrinsic
def larger(typing, x, y):
    """The larger of |x| and |y| of each lane."""

    def generate(context, builder, signature, arguments):
        sizes = [builder.call(_function(builder, "fabs", x.dtype, 1), [a]) for a in arguments]
        return builder.select(builder.fcmp_ordered(">", *sizes), *sizes)

    return x(x, y), generate


@intrinsic
def where_positive(typing, test, yes, no):
    """`yes` in lanes where test > 0, `no` elsewhere, also where test is NaN."""

    def generate(context, builder, signature, arguments):
        test_, yes_, no_ = arguments
        return builder.select(builder.fcmp_ordered(">", test_, _constant(test.dtype, 0.0)), yes_, no_)

    return yes(test, yes, no), generate


@intrinsic
def any_outside(typing, x, low, high):
    """Whether x < low or x > high in some lane; NaN is neither."""

    def generate(context, builder, signature, arguments):
        vector = arguments[0]
        bounds = [
            _spread(builder, context.cast(builder, arguments[k], signature.args[k], x.dtype), x.dtype) for k in (1, 2)
        ]
        outside = builder.or_(
            builder.fcmp_ordered("<", vector, bounds[0]), builder.fcmp_ordered(">", vector, bounds[1])
        )
        bits = builder.bitcast(outside, ir.IntType(x.count))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(x.count), 0))

    return types.boolean(x, low, high), generate


def _constant(dtype, value):
    vector = _vector(dtype)
    return ir.Constant(vector, [value] * vector.count)


def _function(builder, name, dtype, arity):
    vector = _vector(dtype)
    kind = ir.FunctionType(vector, [vector] * arity)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{vector.count}f{dtype.bitwidth}")


def _spread(builder, scalar, dtype):
    """One number in every lane."""
    vector = _vector(dtype)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


class _Arithmetic(AbstractTemplate):
    """Typing of an operator on lanes and lanes, or lanes and a number."""

    def generic(self, arguments, keywords):
        lanes = [kind for kind in arguments if isinstance(kind, Lanes)]
        if not lanes or not all(isinstance(kind, (Lanes, types.Number)) for kind in arguments):
            return None
        return signature(lanes[0], lanes[0], lanes[0])


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    infer_global(_symbol)(type(f"_{_instruction}", (_Arithmetic,), {}))

    def _lower(context, builder, signature, arguments, instruction=_instruction):
        return getattr(builder, instruction)(*arguments)

    lower_builtin(_symbol, Lanes, Lanes)(_lower)


@lower_cast(types.Number, Lanes)
def _number_to_lanes(context, builder, given, lanes, value):
    return _spread(builder, context.cast(builder, value, given, lanes.dtype), lanes.dtype)
