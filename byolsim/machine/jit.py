"""One way to compile a kernel.

No fast-math: LLVM then keeps the order of every sum and the rounding of every product as they are written. It compiles
a kernel on its own and again as part of each of its callers, and which copy a call reaches depends on what was compiled
and what was loaded from the cache before it; only as written do all of them have the same bits. A long sum is written
with lanes (`backends/numba/lanes.py`), a product and a sum in one instruction as `fma`.

`np.dot` in a kernel calls SciPy's BLAS, which numba loads at the first call; it is imported here, so that a limit on
the number of BLAS threads that is set before that call finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import scipy.linalg.cython_blas  # noqa: F401
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from byolsim.errors import JIT_DISABLED, UserError
from byolsim.machine.kernel_cache import SETTINGS, KernelCache

if SETTINGS.DISABLE_JIT:
    raise UserError(JIT_DISABLED)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba when it is first called: kept on disk (`kernel_cache`), GIL released."""
    return _compiled(function, inline=False)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `kernel`, and merged into its callers: a call passes each array of each tuple word by word, 0.1 us in all."""
    return _compiled(function, inline=True)


def _compiled(function: Callable[..., Any], inline: bool) -> Callable[..., Any]:
    compiled: Any = numba.njit(nogil=True, error_model="numpy", forceinline=inline)(function)
    compiled._cache = KernelCache(function)
    return compiled  # type: ignore[no-any-return]


def _fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """In a kernel: x y + z of numbers or lanes, in one instruction and with one rounding where the processor has it.

    Written out, so that whether a product and a sum become one does not depend on what stands around them.
    """
    lanes = [kind for kind in (x, y, z) if not isinstance(kind, types.Number)]
    kind = lanes[0] if lanes else typing.unify_types(x, y, z)
    real = kind.dtype if lanes else kind
    if real not in (types.float64, types.float32):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        llvm = context.get_value_type(kind)
        vector = f"v{llvm.count}" if lanes else ""
        function = ir.FunctionType(llvm, [llvm] * 3)
        name = f"llvm.fmuladd.{vector}f{real.bitwidth}"
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

    return kind(kind, kind, kind), generate


fma: Any = intrinsic(_fma)
