"""The survey: everything that can be said about a recipe from headers and listings alone.

Reads no weight and no image, writes nothing, and reports all problems at once.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from esm_core.architecture import Architecture, empty_model, load_architecture, tower_shapes
from esm_core.checkpoints import (
    TensorInfo,
    VisionCheckpoint,
    activation_evidence,
    open_checkpoint,
    text_checkpoint,
    vision_checkpoint,
)
from esm_core.errors import InputError, raise_together
from esm_core.experts.check import unfit_for_experts
from esm_core.heads import head_classes
from esm_core.images import choose_samples, open_images
from esm_core.images.folder import ImageFolder
from esm_core.layers import PROJECTION
from esm_core.recipe import Recipe, TaskSpec
from esm_core.storage import Location
from esm_core.store import check_store


@dataclass(frozen=True)
class SurveyedTower:
    """A checkpoint's tower and how its activation function is known.

    Attributes
    ----------
    tower : VisionCheckpoint
    activation_source : str
        Where the activation was found, or that it is assumed from the architecture.
    """

    tower: VisionCheckpoint
    activation_source: str


@dataclass(frozen=True)
class Survey:
    """A recipe whose parts were found to fit together.

    Attributes
    ----------
    text : mapping
        The base's tensors outside the vision tower; empty where it is a tower only.
    tasks : mapping of task name to its tower
    proxies : mapping of task name to the chosen proxy sample ids
    """

    recipe: Recipe
    architecture: Architecture
    base: SurveyedTower
    text: Mapping[str, TensorInfo]
    tasks: Mapping[str, SurveyedTower]
    proxies: Mapping[str, list[str]]


def survey(recipe: Recipe) -> Survey:
    """Open every input of ``recipe`` and compare what headers and listings say.

    Raises
    ------
    InputError
        With every problem found: missing files, names, shapes or dtypes that differ from the base,
        activation mismatches, too few proxies, heads that do not fit, a store of a newer format.
    """
    problems: list[str] = []
    with _gather(problems, "store"):
        check_store(Location.parse(recipe.store))
    architecture, base, text = _survey_base(recipe, problems)
    tasks: dict[str, SurveyedTower] = {}
    proxies: dict[str, list[str]] = {}
    for spec in recipe.tasks:
        with _gather(problems, f"task {spec.name}"):
            tasks[spec.name] = _open(spec.checkpoint, spec.activation, architecture)
        if base is not None and spec.name in tasks:
            found = compare_with_base(tasks[spec.name].tower, base.tower)
            problems.extend(f"task {spec.name}: {problem}" for problem in found)
        with _gather(problems, f"task {spec.name}"):
            source = open_images(Location.parse(spec.proxy))
            ids = source.sample_ids()
            proxies[spec.name] = choose_samples(ids, recipe.samples, recipe.seed, source.location)
            if recipe.experts is not None and len(ids) < 2:
                raise InputError(
                    f"{source.location}: holds one image, but a router of experts is compared on images it "
                    "was not fitted on; add images, or leave experts out."
                )
        with _gather(problems, f"task {spec.name}"):
            _check_labelled(spec, architecture, bool(text))
        if recipe.alpha == "validation":
            problems.extend(f"task {spec.name}: {problem}" for problem in _unfit_for_validation(spec))
    if base is not None and recipe.experts is not None:
        shapes = {name: info.shape for name, info in base.tower.tensors.items()}
        problems.extend(unfit_for_experts(recipe.experts, shapes))
    raise_together(problems)
    assert architecture is not None
    assert base is not None
    return Survey(recipe, architecture, base, text, tasks, proxies)


def compare_with_base(tuned: VisionCheckpoint, base: VisionCheckpoint) -> list[str]:
    """One problem per way in which a fine-tune's tensors differ from the base's; names the first few."""
    problems = []
    where = tuned.location
    own, expected = dict(tuned.tensors), dict(base.tensors)
    if tuned.borrows_projection and PROJECTION not in own:
        expected.pop(PROJECTION, None)
    missing, extra = sorted(set(expected) - set(own)), sorted(set(own) - set(expected))
    if missing:
        problems.append(f"{where}: {_some(missing)} of the base {_is(missing)} missing.")
    if extra:
        problems.append(f"{where}: {_some(extra)} {_is(extra)} not in the base.")
    shared = sorted(set(own) & set(expected))
    shapes = [n for n in shared if own[n].shape != expected[n].shape]
    if shapes:
        first = shapes[0]
        problems.append(
            f"{where}: {_some(shapes)} differ{'' if len(shapes) > 1 else 's'} in shape from the base "
            f"({first}: {own[first].shape}, expected {expected[first].shape}). Is it another architecture?"
        )
    dtypes = [n for n in shared if own[n].dtype != expected[n].dtype]
    if dtypes:
        first = dtypes[0]
        problems.append(
            f"{where}: {_some(dtypes)} differ{'' if len(dtypes) > 1 else 's'} in dtype from the base "
            f"({first}: {own[first].dtype}, expected {expected[first].dtype}). Save both in one precision."
        )
    return problems


def _survey_base(
    recipe: Recipe, problems: list[str]
) -> tuple[Architecture | None, SurveyedTower | None, Mapping[str, TensorInfo]]:
    spec = recipe.base
    architecture: Architecture | None = None
    base: SurveyedTower | None = None
    text: Mapping[str, TensorInfo] = {}
    with _gather(problems, "base"):
        architecture = load_architecture(spec.architecture, Location.parse(spec.checkpoint))
    with _gather(problems, "base"):
        checkpoint = open_checkpoint(Location.parse(spec.checkpoint))
        base = _open(spec.checkpoint, spec.activation, architecture)
        text = text_checkpoint(checkpoint).tensors
    if base is not None and architecture is not None:
        with _gather(problems, "base"):
            problems.extend(f"base: {p}" for p in _compare_architecture(architecture, base.tower, text))
    return architecture, base, text


def _compare_architecture(
    architecture: Architecture, base: VisionCheckpoint, text: Mapping[str, TensorInfo]
) -> list[str]:
    expected = tower_shapes(architecture)
    own = {name: info.shape for name, info in base.tensors.items()}
    if text:
        expected = {name: tuple(t.shape) for name, t in empty_model(architecture).state_dict().items()}
        own |= {name: info.shape for name, info in text.items()}
    problems = []
    missing, extra = sorted(set(expected) - set(own)), sorted(set(own) - set(expected))
    wrong = sorted(n for n in set(own) & set(expected) if own[n] != expected[n])
    if missing:
        problems.append(f"{base.location}: {_some(missing)} of {architecture.name} {_is(missing)} missing.")
    if extra:
        problems.append(f"{base.location}: {_some(extra)} {_is(extra)} not part of {architecture.name}.")
    if wrong:
        problems.append(
            f"{base.location}: {_some(wrong)} {_is(wrong)} not shaped as in {architecture.name} "
            f"({wrong[0]}: {own[wrong[0]]}, expected {expected[wrong[0]]})."
        )
    odd = sorted(name for name, info in base.tensors.items() if not info.dtype.is_floating_point)
    if odd:
        problems.append(f"{base.location}: {_some(odd)} {_is(odd)} not floating point.")
    return problems


def _open(url: str, stated: str | None, architecture: Architecture | None) -> SurveyedTower:
    checkpoint = open_checkpoint(Location.parse(url))
    tower = vision_checkpoint(checkpoint)
    evidence = activation_evidence(checkpoint.location, checkpoint)
    if stated is not None:
        found, source = stated, "the recipe"
    elif evidence is not None:
        found, source = evidence
    else:
        return SurveyedTower(tower, "assumed from the architecture")
    if stated is not None and evidence is not None and evidence[0] != stated:
        raise InputError(f"{url}: the recipe says {stated}, but {evidence[1]} says {evidence[0]}.")
    if architecture is not None and found != architecture.activation:
        raise InputError(
            f"{url}: was trained with {found} (says {source}), but the architecture {architecture.name} "
            f"uses {architecture.activation}. Use the matching architecture; for OpenAI weights it is the "
            "-quickgelu one."
        )
    return SurveyedTower(tower, source)


def _check_labelled(spec: TaskSpec, architecture: Architecture | None, has_text: bool) -> None:
    problems: list[str] = []
    classes = None
    if architecture is not None:
        with _gather(problems):
            classes = head_classes(spec, architecture, has_text)
    for field in ("test", "validation"):
        url = getattr(spec, field)
        if url is None:
            continue
        with _gather(problems, field):
            if spec.head is None and spec.zero_shot is None:
                raise InputError("images are given without a head; add head or zero_shot.")
            source = open_images(Location.parse(url))
            names = source.class_names
            if not source.sample_ids():
                raise InputError(f"{url}: holds no images.")
            if isinstance(source, ImageFolder) and names is None:
                raise InputError(unlabelled(source.location, field))
            if names is not None and classes is not None and len(names) > classes:
                raise InputError(
                    f"{url}: has {len(names)} class folders, but the head has {classes} classes."
                )
    raise_together(problems)


def unlabelled(location: Location, split: str) -> str:
    """The problem of labelled images that are not."""
    return (
        f"{location}: holds {split} images without a label. Put them in a folder per class, or give labels "
        "in the shards (.cls, .json) or the Parquet column."
    )


def _unfit_for_validation(spec: TaskSpec) -> list[str]:
    problems = []
    if spec.validation is None:
        problems.append(
            "validation: there are no validation images, which alpha: validation needs of every task. Give "
            "them, or use alpha: label_free or a number."
        )
    if spec.validation is None and spec.head is None and spec.zero_shot is None:
        problems.append("head: there is none, which alpha: validation needs of every task.")
    return problems


@contextmanager
def _gather(problems: list[str], field: str = "") -> Iterator[None]:
    try:
        yield
    except InputError as error:
        problems.extend(f"{field}: {problem}" if field else problem for problem in error.problems)


def _some(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    shown = ", ".join(names[:3])
    return f"{len(names)} tensors ({shown}{', ...' if len(names) > 3 else ''})"


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
