"""The section about routing: which expert images are sent to, and how often it is their own."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from esm_core.artifacts import Manifest
from esm_core.layers import LAYER_KINDS, layer_kind
from esm_core.model_card import confusions, routing_rows
from esm_core.report.charts import Axes, Bar, Series, bars, heatmap, lines
from esm_core.report.parts import Figure, Section, Table, percent
from esm_core.report.spectra import block_number

Counts = Mapping[str, Mapping[str, int]]

_DASHES = ("", "2 3", "7 3", "9 3 2 3")
_TONES = ("c1", "c5", "c2", "c3")


def routing(manifest: Manifest) -> Section:
    """Confusion of the router on the test images, or on held-out proxies where there are none."""
    title, facts = "Routing", manifest.get("experts")
    if not facts:
        return Section("routing", title, lead=["This version has no experts, so nothing is routed."])
    metrics = manifest.get("metrics") or {}
    by_layer: Mapping[str, Counts] = metrics.get("routing") or {}
    held_out = (facts.get("held_out") or {}).get(facts.get("router")) or {}
    once = facts.get("scope") == "image"
    lead = [
        f"The router {facts.get('router')} decides once per {facts.get('scope')}. Rows are the tasks that "
        "images belong to, columns the experts they were sent to; a strong diagonal is right."
    ]
    figures, tables = [], []
    if by_layer:
        figures.append(_confusion("routing-test", _where("Test images", by_layer, once), _together(by_layer)))
    else:
        lead.append("No test images were routed, so what is known is what was held out of the proxies.")
    if held_out:
        lead.append(f"Of the proxies that were held out, {percent(held_out['accuracy'])} % found their own.")
        figures.append(_confusion("routing-held-out", "Held-out proxies", held_out["confusion"]))
    elif not by_layer:
        lead.append("This router was not tried on held-out proxies either.")
    if by_layer:
        figures.append(_by_task(metrics.get("routing_accuracy") or {}))
    if by_layer and not once:
        figures.append(_per_layer(by_layer))
        tables.append(Table("Test images routed to their own expert, %", *routing_rows(metrics), folded=True))
    elif by_layer:
        lead.append("It decides before the first layer, for all layers at once: there is no curve per layer.")
    worst = confusions(_together(by_layer) if by_layer else held_out.get("confusion", {}), most=8)
    if worst:
        rows = [[w.rpartition(" → ")[0], *_split(w)] for w in worst]
        tables.append(Table("Most often sent to a wrong expert", ["images of", "to", "share"], rows, texts=2))
    kept = _kept_energy(facts)
    return Section("routing", title, large=True, lead=lead, figures=figures, tables=[*tables, *kept])


def _split(text: str) -> tuple[str, str]:
    expert, share, _ = text.rpartition(" → ")[2].rsplit(" ", 2)
    return expert, f"{share} %"


def _where(what: str, by_layer: Mapping[str, Counts], once: bool) -> str:
    return what if once else f"{what}, all {len(by_layer)} layers"


def _together(by_layer: Mapping[str, Counts]) -> dict[str, dict[str, int]]:
    """Decisions of all layers together: task → expert → images."""
    found: dict[str, dict[str, int]] = {}
    for table in by_layer.values():
        for task, chosen in table.items():
            own = found.setdefault(task, {})
            for expert, count in chosen.items():
                own[expert] = own.get(expert, 0) + count
    return found


def _confusion(key: str, title: str, table: Counts) -> Figure:
    names = sorted(set(table) | {expert for chosen in table.values() for expert in chosen})
    shares: list[list[float | None]] = []
    for task in names:
        chosen = table.get(task, {})
        total = sum(chosen.values())
        shares.append([chosen.get(expert, 0) / total if total else None for expert in names])
    chart = heatmap(
        key, f"{title}: share sent to each expert, %", names, shares, percent_of, (0.0, 1.0), "{} → {}: {} %"
    )
    rows = [
        [task, *("–" if share is None else percent(share) for share in own)]
        for task, own in zip(names, shares, strict=True)
    ]
    data = Table(f"{title}: share sent to each expert, %", ["images of", *names], rows)
    return Figure(f"{title}: share sent to each expert, %", chart, data=data)


def percent_of(share: float) -> str:
    """A share as it is written in a cell."""
    return f"{100 * share:.0f}" if share == 0 or share >= 0.095 else f"{100 * share:.1f}"


def _by_task(accuracy: Mapping[str, float]) -> Figure:
    rows = [Bar(task, share, percent(share), "c2") for task, share in sorted(accuracy.items())]
    return Figure(
        "Sent to their own expert, % of test images", bars("routing-tasks", "Routing accuracy per task", rows)
    )


def _per_layer(by_layer: Mapping[str, Counts]) -> Figure:
    """Mean share over tasks that is right in every layer."""
    shares: dict[str, dict[int, float]] = defaultdict(dict)
    for weight, table in by_layer.items():
        own = [
            chosen.get(task, 0) / total for task, chosen in table.items() if (total := sum(chosen.values()))
        ]
        kind, block = layer_kind(weight), block_number(weight)
        if own and kind is not None and block is not None:
            shares[kind][block] = 100 * sum(own) / len(own)
    kinds = [kind for kind in LAYER_KINDS if kind in shares]
    series = [
        Series(kind, [(float(b), v) for b, v in sorted(shares[kind].items())], tone, dash, dots=True)
        for kind, tone, dash in zip(kinds, _TONES, _DASHES, strict=False)
    ]
    blocks = sorted({block for own in shares.values() for block in own})
    rows = [[str(b), *(f"{shares[k][b]:.1f}" if b in shares[k] else "–" for k in kinds)] for b in blocks]
    axes = Axes("block", "right, %", top=100.0, whole_x=True)
    title = "Routing accuracy per layer, %"
    chart = lines("routing-layers", title, series, axes)
    return Figure(title, chart, data=Table(title, ["block", *kinds], rows, texts=0))


def _kept_energy(facts: Mapping[str, Any]) -> list[Table]:
    kept: Mapping[str, Mapping[str, float]] = facts.get("kept_energy") or {}
    by_kind: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for weight, shares in kept.items():
        by_kind[layer_kind(weight) or weight.removeprefix("visual.")].append(shares)
    if not by_kind:
        return []
    tasks = sorted({task for own in by_kind.values() for shares in own for task in shares})
    rows = [
        [task, *(percent(sum(s[task] for s in own) / len(own)) for own in by_kind.values())] for task in tasks
    ]
    caption = (
        f"Energy of the residuals that experts of rank {facts['settings']['rank']} keep, mean over layers, %"
    )
    return [Table(caption, ["task", *by_kind], rows)]
