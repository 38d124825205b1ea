"""Run by test_memory.py in processes of their own.

``build FOLDER`` writes the checkpoints; ``run FOLDER`` merges them and prints the peak memory beyond a
warm process, and the bytes of all checkpoints.
"""

import json
import resource
import sys
from pathlib import Path

import world as small
import yaml
from safetensors.torch import save_file
from world import World, build_world, merge_layers, random_tower

from esm_core.alpha.choice import choose, mean_score
from esm_core.alpha.line import write_line
from esm_core.alpha.proxy_features import write_references
from esm_core.alpha.scores import keep_choice, score
from esm_core.architecture import tower_shapes
from esm_core.publish import publish
from esm_core.static import finish


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_stages(world: World) -> None:
    world.recipe["alpha"] = "label_free"
    plan = merge_layers(world)
    write_line(plan)
    for task in plan.tasks:
        write_references(plan, task.name)
    curve = {alpha: mean_score(score(plan, alpha, task.name) for task in plan.tasks) for alpha in (1.0, 2.0)}
    plan = keep_choice(plan, choose("label_free", curve))
    finish(plan)
    publish(plan, {"accuracy": {}})


def deep_world(root: Path, tasks: int) -> World:
    """Many layers, so that a checkpoint is far larger than what merging one layer takes."""
    small.VISION = {**small.VISION, "layers": 13, "width": 256, "head_width": 64}
    world = build_world(root, tasks=tuple(f"task{i}" for i in range(tasks)), test=False)
    shapes = tower_shapes(world.architecture)
    for index in range(tasks):
        save_file(random_tower(shapes, seed=index + 1), root / f"task{index}.safetensors")
    return world


def main(root: Path) -> None:
    run_stages(build_world(root / "warm", test=False))
    world = World(root / "deep", recipe=yaml.safe_load((root / "deep" / "recipe.yaml").read_text()))
    before = peak_bytes()
    run_stages(world)
    total = sum((world.root / task["checkpoint"]).stat().st_size for task in world.recipe["tasks"])
    print(json.dumps({"extra": peak_bytes() - before, "checkpoints": total}))


if __name__ == "__main__":
    if sys.argv[1] == "build":
        _ = deep_world(Path(sys.argv[2]) / "deep", tasks=12).recipe_path
    else:
        main(Path(sys.argv[2]))
