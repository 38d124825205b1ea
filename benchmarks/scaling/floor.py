"""The floor of a layer: operations that cannot be left out, over the rate of a matrix product.

Counted are leading terms of dense, exact algorithms. A symmetric eigenproblem of size n is 4/3 n³ for the
reduction and 2 n² per eigenvector that is wanted, as if it ran at the rate of products (it nowhere does).
An operation in float32 counts as half of one in float64.
"""

from benchmarks.scaling.problem import LayerProblem


def decompose_flops(problem: LayerProblem) -> float:
    """Operations to decompose the updates of all tasks from their compressed factors."""
    rows, columns = problem.d_out, problem.d_in
    rank = kept(problem)
    if not problem.essential:
        side, longer = min(rows, columns), max(rows, columns)
        per_task = longer * side**2 + _eigen(side, rank) + 2.0 * longer * side * rank
        return problem.tasks * per_task
    factor_rows = min(problem.rows, rows if problem.keeps_shift else columns)
    small = min(factor_rows, rows)
    # A triangular factor halves the first product; a Gram matrix is symmetric, which halves it too.
    shift = 0.0 if problem.keeps_shift else float(factor_rows) * columns * rows
    gram = float(small) * factor_rows * rows
    lift = 2.0 * factor_rows * rows * rank if small < rows else 0.0
    per_task = shift + gram + _eigen(small, rank) + lift + 2.0 * rows * columns * rank
    return problem.tasks * per_task


def fuse_flops(problem: LayerProblem) -> float:
    """Operations to orthogonalise and multiply the concatenated decompositions ``E`` and ``C``.

    ``C`` is orthogonalised on its shorter side; of ``E`` only the inverse root of its Gram matrix is needed,
    which is applied to ``C``: by its eigenvectors, or, where ``C`` is narrow, by reflections in float32.
    Where ``C`` is wide, both inverse roots are applied to the one of ``E`` and ``C`` that has fewer vectors.
    """
    total, columns = problem.tasks * kept(problem), problem.d_in
    short, long = sorted((columns, total))
    coordinates = _inverse_root(long, short)
    product = 2.0 * problem.d_out * total * columns
    if total <= columns:
        both = 4.0 * min(problem.d_out, columns) * total**2
        return coordinates + _inverse_root(problem.d_out, total) + both + product
    coordinates += 2.0 * long * short**2
    if 2 * columns > total:
        return coordinates + _inverse_root(problem.d_out, total) + 2.0 * columns * total**2 + product
    narrow = problem.d_out * float(total) ** 2 + 4 / 3 * float(total) ** 3 + 4.0 * total**2 * columns
    return coordinates + (narrow + product) / 2


def kept(problem: LayerProblem) -> int:
    """Directions kept of each task."""
    side = problem.d_out if problem.essential else min(problem.d_out, problem.d_in)
    return min(max(1, side // problem.tasks), problem.d_in, problem.rows)


def _inverse_root(long: int, short: int) -> float:
    """Of the Gram matrix of a ``[long, short]`` matrix."""
    return float(long) * short**2 + _eigen(short, short) + float(short) ** 3


def _eigen(side: int, wanted: int) -> float:
    return 4 / 3 * side**3 + 2.0 * side**2 * wanted
