"""What the page says around its figures. Lines are Markdown; braces are filled in by :mod:`page`."""

HEAD = """\
# Quality

How good the merges are, on the demo's tasks: real images of 32 × 32 pixels, a tower of 0.83 M parameters
and width 128. Figures are normalised accuracy on test images in percent, that is a task's accuracy over its
fine-tune's, averaged over tasks; then the mean over seeds, with the lowest and highest seed in brackets.
This page, its plots and the JSON are written by

```
{command}
```

{machine}
- Seeds {seeds}; a seed has its own images, base and fine-tunes.
{tasks}
- **What chose what.** A coefficient that is called tuned was chosen on validation images: for each seed, by
  the mean accuracy over tasks, from a grid or by a search given [below](#what-was-chosen). What is called
  default needs no label. Test images choose nothing here. Two things date from before: the demo's training
  settings (data, schedules, heads) were settled on validation images after one seed's test results had been
  seen, and esmerge's defaults for experts and routers were chosen on validation images of seeds 0, 1 and 2
  ([experts](../docs/experts.md#what-was-measured)).
- A task has at most 600 test images. All columns are measured on the same ones, so differences are surer
  than the figures; still, what is below half a point or changes its sign between seeds says little.
- Merges, searches of α, experts and routers are the library's own code, run in memory. Seed by seed,
  accuracy and α equal those of `esmerge merge` ([a test](../tests/benchmarks/test_quality_benchmark.py)
  compares them).
"""

CLAIMS = """
Points are the mean over seeds of the left side's normalised accuracy less the right side's. “Holds” means
in every seed, “holds in the mean only” not in every one.
"""

PARTS = """\
One part is changed at a time. Every variant has its own α: without labels, or by validation accuracy.
"""

PROXIES = """\
Layer inputs and the label-free α are taken from these images. Those of another task are the next one's by
name; faces and backgrounds are grey pieces of photographs from Labeled Faces in the Wild, the same for
every task. The columns of α by validation show what the inputs alone do.
"""

EXPERTS = """\
All on the same static merge (ESM, α label-free). “Right” is the share of test images sent to their own
task's expert, for the published router a mean over layers; MB are those of experts and router in float32.
"""

TRUNCATION = """\
Share of a fine-tune's activation shift that is lost when its update keeps so many directions (in percent of
the weight's shorter side): on the inputs of test images, in percent, a mean over layers, tasks and seeds. A
basis is made from 32 proxies where not said.
"""

AUTOMATIC = """\
Could a merge choose its settings for itself, from unlabelled proxies? Gains are over the published settings
with an α searched without labels, in points of normalised accuracy, lowest and highest seed in brackets. Each
row changes one thing and searches its own α in the same way; the third row has no search. The first two rows
choose one of the changed settings, or the published ones, for each merge by itself: by the score that α is
searched by, or by the share of 128 unlabelled proxies per task that the merged model classifies as their
fine-tune does (which takes heads). Candidates and rules were thought of with validation images of seeds
{seeds} in view; what decides are the test images of seeds {held_out}, which nothing was picked on.
"""

CHOSEN = """\
Tuned coefficients are from grids: Task Arithmetic {sums}, TSV-M, Iso-C and Iso-CTS {spectral}. α is found
by golden section on [0, 4], without labels or by validation accuracy ([method
notes](../docs/method.md#the-choice-of-alpha)). What was taken, seed by seed:
"""
