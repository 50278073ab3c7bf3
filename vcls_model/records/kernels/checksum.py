"""CRC-32C (Castagnoli), by the processor's instruction where it has one, and as TFRecord files store it: masked."""

import platform

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vcls_model.compiled import njit_of
from vcls_model.records.kernels.words import load_u64

njit = njit_of(__package__)

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reflected
_MASK_DELTA = 0xA282EAD8  # TFRecord stores rotate(crc, 15) + this


def _tables() -> np.ndarray:
    """Slicing-by-eight tables, (8, 256) uint32."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        tables[0, byte] = crc
    for row in range(1, 8):
        tables[row] = (tables[row - 1] >> 8) ^ tables[0, tables[row - 1] & 255]
    return tables


_TABLES = _tables()


@njit
def crc32c_by_table(buffer, start, end, before=0):
    """CRC-32C of buffer[start:end] with tables, see `crc32c`: any processor."""
    crc = np.uint32(before) ^ np.uint32(0xFFFFFFFF)
    at = start
    while at + 8 <= end:
        low = crc ^ (
            np.uint32(buffer[at])
            | np.uint32(buffer[at + 1]) << np.uint32(8)
            | np.uint32(buffer[at + 2]) << np.uint32(16)
            | np.uint32(buffer[at + 3]) << np.uint32(24)
        )
        crc = (
            _TABLES[7, low & np.uint32(255)]
            ^ _TABLES[6, (low >> np.uint32(8)) & np.uint32(255)]
            ^ _TABLES[5, (low >> np.uint32(16)) & np.uint32(255)]
            ^ _TABLES[4, low >> np.uint32(24)]
            ^ _TABLES[3, buffer[at + 4]]
            ^ _TABLES[2, buffer[at + 5]]
            ^ _TABLES[1, buffer[at + 6]]
            ^ _TABLES[0, buffer[at + 7]]
        )
        at += 8
    while at < end:
        crc = _TABLES[0, (crc ^ np.uint32(buffer[at])) & np.uint32(255)] ^ (crc >> np.uint32(8))
        at += 1
    return crc ^ np.uint32(0xFFFFFFFF)


@intrinsic
def _instruction_64(typing_context, crc, value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word = ir.IntType(64)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(word, [word, word]), "llvm.x86.sse42.crc32.64.64"
        )
        return builder.call(function, arguments)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def _instruction_8(typing_context, crc, value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word, byte = ir.IntType(32), ir.IntType(8)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(word, [word, byte]), "llvm.x86.sse42.crc32.32.8"
        )
        return builder.call(function, arguments)

    return types.uint32(types.uint32, types.uint8), generate


def has_instruction() -> bool:
    """Whether this processor computes CRC-32C itself (x86 with SSE 4.2)."""
    return platform.machine() in ("x86_64", "AMD64") and bool(
        llvmlite.binding.get_host_cpu_features().get("sse4.2", False)
    )


if has_instruction():

    @njit
    def crc32c(buffer, start, end, before=0):
        """CRC-32C of buffer[start:end], a uint8 array, or of what has the CRC-32C `before` followed by it."""
        wide = np.uint64(np.uint32(before) ^ np.uint32(0xFFFFFFFF))
        at = start
        while at + 8 <= end:
            wide = _instruction_64(wide, load_u64(buffer, at))  # type: ignore[call-arg]
            at += 8
        crc = np.uint32(wide)
        while at < end:
            crc = _instruction_8(crc, buffer[at])  # type: ignore[call-arg]
            at += 1
        return crc ^ np.uint32(0xFFFFFFFF)
else:
    crc32c = crc32c_by_table


@njit
def masked_crc32c(buffer, start, end):
    """The masked CRC-32C that a TFRecord file stores for buffer[start:end]."""
    crc = crc32c(buffer, start, end)
    # numba widens the operands; the sum is cut back to 32 bits.
    return np.uint32(np.uint32((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(_MASK_DELTA))
