"""The quality benchmark: fine-tunes of one seed, merged in memory in many ways and measured.

How it is put together, and how to add something to it:

- :mod:`problem` loads one seed folder of :func:`demo.prepare.prepare` for some of its tasks: base, heads,
  fine-tunes and images by the library's own readers, and layer inputs by the library's own collection (kept
  on disk). ``Problem.accuracy(tower, split)`` measures a tower, ``Problem.tower(tensors)`` builds one.
- A *variant* is a frozen dataclass with ``name`` and ``measure(problem) -> {column: Figures}``; see
  :class:`variant.Variant`. The simplest is a :class:`static.Merged`: a function that makes a ``Line`` (the
  merged towers of every coefficient), and how the coefficient is chosen. ``Problem.updates`` and
  ``Problem.inputs(proxies)`` are what :func:`esm_core.merge_updates` takes; a task's proxy images are
  ``Problem.proxy_images(name)``.
- :data:`variants.VARIANTS` is the registry: one entry adds a variant, with a module of its own where it
  needs code.
- :mod:`run` keeps results by seed, tasks and variant, under a digest of the variant's fields, its module and
  the code that computes; what is kept is not computed again.

Settings are chosen on ``validation`` images or on proxies; ``test`` images are only reported.
"""
