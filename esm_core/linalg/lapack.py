"""LAPACK and BLAS routines on CPU tensors, by the pointers SciPy publishes for other compilers.

``torch`` offers no half of an eigenproblem (a reduction to tridiagonal form, its reflections), no block of
reflections and no symmetric product, and SciPy's own wrappers hold the interpreter's lock, so two layers at
once would wait for each other. A call through ``ctypes`` lets it go.

Notes
-----
LAPACK counts by columns: a contiguous tensor ``[c, n]`` is its ``n x c`` matrix. Of symmetric matrices only
the upper triangle of the tensor is read and written. Tensors are float32 or float64, those of one call
alike. Every function checks what LAPACK reports.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from scipy.linalg import cython_blas, cython_lapack
from torch import Tensor

_BLOCK = 64
"""Columns LAPACK works on at once; decides how much workspace it needs, and its bits."""

_LOWER, _PLAIN, _TRANSPOSED, _LEFT, _RIGHT, _ALL = b"L", b"N", b"T", b"L", b"R", b"I"

_PREFIX = {torch.float32: "s", torch.float64: "d"}
_SCALAR = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}


def symmetric_product(matrix: Tensor) -> Tensor:
    """The upper triangle of ``AᵀA``, ``[n, n]``, at half the work of a product; ``A`` is ``[m, n]``.

    ``A`` or its transpose is contiguous; what lies below the diagonal of the result is not set.
    """
    rows, columns = matrix.shape
    by_rows = matrix.is_contiguous()
    product = matrix.new_empty(columns, columns)
    lead = columns if by_rows else rows
    form = _PLAIN if by_rows else _TRANSPOSED
    one, zero = (_SCALAR[matrix.dtype](value) for value in (1.0, 0.0))
    shape = (max(lead, 1), zero, product, max(columns, 1))
    _routine(cython_blas, _PREFIX[matrix.dtype] + "syrk")(
        *_references(_LOWER, form, columns, rows, one, matrix, *shape)
    )
    return product


def tridiagonalise(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce a symmetric matrix ``[n, n]`` to ``Q T Qᵀ``; it is overwritten by the reflections ``Q``.

    Returns
    -------
    diagonal, beside : Tensor
        ``T``: ``[n]`` and ``[n - 1]``.
    scales : Tensor
        ``[n - 1]``, of the reflections.
    """
    size = matrix.shape[0]
    diagonal, beside, scales = (matrix.new_empty(n) for n in (size, size - 1, size - 1))
    work = matrix.new_empty(_BLOCK * size)
    _call("sytrd", _LOWER, size, matrix, size, diagonal, beside, scales, work, work.numel())
    return diagonal, beside, scales


def rotate(reflections: Tensor, scales: Tensor, columns: Tensor, back: bool) -> None:
    """``Q X``, or ``Qᵀ X`` where not ``back``, in place, on ``X`` given as contiguous ``[c, n]``."""
    count, size = columns.shape
    form = _PLAIN if back else _TRANSPOSED
    work = columns.new_empty(_BLOCK * count + (_BLOCK + 1) * _BLOCK)
    matrix = (reflections, size, scales, columns, size, work, work.numel())
    _call("ormtr", _LEFT, _LOWER, form, size, count, *matrix)


def tridiagonal_vectors(diagonal: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``[n]``, ascending, and eigenvectors as the rows of ``[n, n]``."""
    size = diagonal.numel()
    values, vectors = diagonal.clone(), diagonal.new_empty(size, size)
    work, whole = diagonal.new_empty(1 + 4 * size + size * size), torch.empty(3 + 5 * size, dtype=torch.int32)
    space = (work, work.numel(), whole, whole.numel())
    _call("stedc", _ALL, size, values, beside.clone(), vectors, size, *space)
    return values, vectors


def reflect(panel: Tensor) -> tuple[Tensor, Tensor]:
    """Reflections that take a matrix ``[m, b]``, given as contiguous ``[b, m]``, to its triangle ``R``.

    With ``k = min(m, b)``; ``panel`` is overwritten, by ``R`` in its first ``k`` columns (upper, as rows).

    Returns
    -------
    vectors : Tensor
        ``[k, m]``: ``V`` as rows. The first reflection to meet the matrix is the first row's.
    triangle : Tensor
        ``[k, k]``, upper, ``T``: all together they are ``I - V T Vᵀ``.
    """
    width, length = panel.shape
    count = min(width, length)
    # All in one block: by recursion, so by products, where geqrf goes one column at a time.
    by_columns, work = panel.new_empty(count, count), panel.new_empty(count * width)
    _call("geqrt", length, width, count, panel, length, by_columns, count, work)
    vectors = panel[:count].triu(1)
    vectors.diagonal().fill_(1.0)
    return vectors, by_columns.mT.triu()


def add_symmetric_times(product: Tensor, matrix: Tensor, columns: Tensor) -> None:
    """``Y + A X`` in place, for a symmetric ``A``, ``[n, n]``, and contiguous ``Y``, ``X``, ``[n, c]``.

    ``A`` may be a part of a larger matrix with contiguous rows.
    """
    size, count = columns.shape
    one = _SCALAR[matrix.dtype](1.0)
    # From the right, which is faster by a tenth to a fifth where columns are few.
    given = (matrix, matrix.stride(0), columns, count, one, product, count)
    _routine(cython_blas, _PREFIX[matrix.dtype] + "symm")(
        *_references(_RIGHT, _LOWER, count, size, one, *given)
    )


def subtract_products(matrix: Tensor, first: Tensor, second: Tensor) -> None:
    """``A - X Yᵀ - Y Xᵀ`` in place, for a symmetric ``A`` and ``X``, ``Y`` given as contiguous ``[c, n]``."""
    count, size = first.shape
    minus, one = (_SCALAR[matrix.dtype](value) for value in (-1.0, 1.0))
    given = (minus, first, size, second, size, one, matrix, matrix.stride(0))
    _routine(cython_blas, _PREFIX[matrix.dtype] + "syr2k")(*_references(_LOWER, _PLAIN, size, count, *given))


def _call(name: str, *arguments: Any) -> None:
    (dtype,) = {value.dtype for value in arguments if isinstance(value, Tensor) and value.is_floating_point()}
    info = ctypes.c_int(0)
    _routine(cython_lapack, _PREFIX[dtype] + name)(*_references(*arguments), ctypes.byref(info))
    if info.value != 0:
        raise RuntimeError(f"LAPACK {name} failed with info {info.value}: a matrix holds NaN or Inf")


def _references(*arguments: Any) -> list[Any]:
    """As Fortran wants them: tensors by the address of their first value."""
    return [_reference(argument) for argument in arguments]


def _reference(value: Tensor | bytes | int | ctypes.c_float | ctypes.c_double) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, bytes):
        return ctypes.byref(ctypes.c_char(value))
    if isinstance(value, int):
        return ctypes.byref(ctypes.c_int(value))
    return ctypes.byref(value)


@cache
def _routine(module: Any, name: str) -> Callable[..., None]:
    capsule = module.__pyx_capi__[name]
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    address_of = ctypes.pythonapi.PyCapsule_GetPointer
    address_of.restype, address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None)(address_of(capsule, name_of(capsule)))
