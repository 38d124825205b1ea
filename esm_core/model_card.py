"""The README.md of a published version, made from its manifest."""

from collections.abc import Mapping
from typing import Any

from esm_core.methods import BASELINES, method_title

METHOD_NAMES = {
    "base": "Base",
    "experts": "Experts",
    **{name: baseline.title for name, baseline in BASELINES.items()},
    "esm": "ESM",
    "esm_pp_route": "ESM++ (routed)",
    "esm_pp_oracle": "ESM++ (oracle)",
}


def method_name(method: str) -> str:
    """What people call a method: as its file says, also where another package brings it."""
    return METHOD_NAMES.get(method) or method_title(method)


def methods_of(accuracy: Mapping[str, object]) -> list[str]:
    """The methods of an accuracy table: base and experts first, then baselines, then what is published."""
    first = ["base", "experts"]
    own = [method for method in METHOD_NAMES if method.startswith("esm")]
    baselines = sorted(set(accuracy) - {*first, *own})
    return [method for method in (*first, *baselines, *own) if method in accuracy]


def accuracy_rows(accuracy: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the accuracy table, in percent; the last rows are the mean and the normalised mean.

    Normalised accuracy is a task's accuracy over its expert's, averaged over tasks, in percent.
    """
    methods = methods_of(accuracy)
    tasks = sorted(accuracy["experts"]) if "experts" in accuracy else []
    rows = [[task, *(f"{100 * accuracy[m][task]:.1f}" for m in methods)] for task in tasks]
    if tasks:
        means = [sum(accuracy[m].values()) / len(tasks) for m in methods]
        rows.append(["mean", *(f"{100 * mean:.1f}" for mean in means)])
        rows.append(["normalised", *(f"{100 * value:.1f}" for value in normalised(accuracy, methods))])
    return ["task", *(method_name(m) for m in methods)], rows


def routing_rows(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of routing accuracy on the test images, in percent: tasks down, decisions across.

    A router that decides once per image has the one decision ``image``; others have one per layer, and
    their mean. No rows where nothing was routed.
    """
    table = metrics.get("routing", {})
    layers = sorted(table)
    if not layers:
        return [], []
    means = metrics["routing_accuracy"]
    rows = []
    for task in sorted(means):
        shares = [table[layer][task][task] / sum(table[layer][task].values()) for layer in layers]
        rows.append([task, *(f"{100 * share:.1f}" for share in [means[task], *shares])])
    overall = sum(means.values()) / len(means)
    rows.append(["mean", f"{100 * overall:.1f}", *([""] * len(layers))])
    shown = [layer.removeprefix("visual.transformer.resblocks.") for layer in layers]
    if layers == ["image"]:
        return ["task", "share"], [row[:2] for row in rows]
    return ["task", "mean", *shown], rows


def confusions(table: Mapping[str, Mapping[str, int]], most: int = 5) -> list[str]:
    """What is most often sent to a wrong expert, the worst first: ``photos → textures 12.5 %``.

    Parameters
    ----------
    table : mapping
        Task → expert → images.
    most : int
        How many to name.
    """
    shares = [
        (count / sum(chosen.values()), task, expert)
        for task, chosen in table.items()
        for expert, count in chosen.items()
        if expert != task and count
    ]
    worst = sorted(shares, key=lambda share: (-share[0], share[1:]))[:most]
    return [f"{task} → {expert} {100 * share:.1f} %" for share, task, expert in worst]


def normalised(accuracy: Mapping[str, Mapping[str, float]], methods: list[str]) -> list[float]:
    """Mean over tasks of accuracy over the expert's, per method; a task whose expert has 0 counts as 0."""
    experts = accuracy["experts"]
    return [
        sum(accuracy[m][t] / experts[t] if experts[t] else 0.0 for t in experts) / len(experts)
        for m in methods
    ]


def model_card(manifest: Mapping[str, Any], name: str) -> str:
    """Markdown with the front matter that model hubs read."""
    tasks = ", ".join(manifest["inputs"]["tasks"])
    table = _section(
        "Accuracy on the test images, in percent", *accuracy_rows(manifest["metrics"]["accuracy"])
    )
    if table:
        table += "\n`normalised`: accuracy over the expert's, averaged over tasks.\n"
    table += _section(
        "Test images routed to their own expert, in percent", *routing_rows(manifest["metrics"])
    )
    experts, use_experts = manifest.get("experts"), ""
    if experts:
        use_experts = _EXPERTS.format(name=name, router=experts["router"], rank=experts["settings"]["rank"])
    return f"""---
library_name: open_clip
tags: [model-merging, clip, esmerge]
---

# {name}

One vision model merged from {len(manifest["inputs"]["tasks"])} fine-tunes ({tasks}) by Essential Subspace
Merging with alpha {manifest["alpha"]}; nothing was trained.
Text tower: {manifest["architecture"]["text_tower"]}.

## Use

```python
import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH_TO_THIS_FOLDER/model")
```

or, with every checksum verified, `esm_core.load(store, "{name}")`.
{use_experts}{table}
Inputs, settings and checksums: `manifest.json`.
"""


def _section(title: str, header: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows)]
    return "\n".join(["", f"## {title}", "", *lines, ""])


_EXPERTS = """
With an expert per task, which every image finds by itself (rank {rank}, router {router}):
`esm_core.load(store, "{name}", experts=True)`. Plain open_clip loads the merged model without them.
"""
