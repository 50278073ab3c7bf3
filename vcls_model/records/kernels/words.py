"""Little-endian words, and runs of bytes, at any place of a uint8 array."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vcls_model.compiled import njit_of

njit = njit_of(__package__)


def _load(width: int, result):  # type: ignore[no-untyped-def]
    """An intrinsic that reads one little-endian word at any byte of a uint8 array."""

    @intrinsic
    def load(typing_context, array, offset):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(width).as_pointer())
            return builder.load(pointer, align=1)

        return result(array, types.intp), generate

    return load


load_u32 = _load(32, types.uint32)


load_u64 = _load(64, types.uint64)


@intrinsic
def store_f32(typing_context, array, offset, value):  # type: ignore[no-untyped-def]
    """Writes one little-endian float32 at any byte of a uint8 array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.FloatType().as_pointer())
        builder.store(arguments[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), generate


@njit
def put_u32(buffer, at, value):
    for byte in range(4):
        buffer[at + byte] = (np.uint32(value) >> np.uint32(8 * byte)) & np.uint32(255)


@intrinsic
def copy_bytes(typing_context, target, to, source, at, count):  # type: ignore[no-untyped-def]
    """Copies source[at:at + count] to target[to:to + count], both uint8 arrays of one dimension."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target_data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        source_data = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        cgutils.raw_memcpy(
            builder, builder.gep(target_data, [arguments[1]]), builder.gep(source_data, [arguments[3]]), arguments[4], 1
        )
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.intp), generate
