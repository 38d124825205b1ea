"""What is checked of a fine-tune before any of it is uploaded: every problem at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from esm_core.architecture import load_architecture, tower_shapes
from esm_core.checkpoints import (
    Checkpoint,
    SafetensorsFile,
    VisionCheckpoint,
    activation_evidence,
    open_checkpoint,
    resolve_checkpoint,
    vision_checkpoint,
)
from esm_core.errors import InputError, raise_together
from esm_core.heads import linear_head_classes
from esm_core.images import ImageSource, choose_samples, open_images
from esm_core.images.decode import decode
from esm_core.images.folder import ImageFolder
from esm_core.layers import PROJECTION
from esm_core.recipe import Activation, ZeroShotSpec, check_name
from esm_core.registry.finetune import IMAGES
from esm_core.storage import Location
from esm_core.survey import compare_with_base, unlabelled
from esm_core.weights import open_tower, read_weight

PEEK = 64
"""How many images are decoded of those that are pointed at; those that are copied are decoded all."""

_SHOWN = 3


@dataclass(frozen=True)
class Landing:
    """A fine-tune that somebody wants to land.

    Parameters
    ----------
    task : str
    checkpoint, proxy, validation, test, head : Location
        As in a recipe.
    base, architecture : optional
        What the checkpoint is compared with.
    copy : bool, optional
        Whether images are copied into the registry or pointed at; not given: local ones are copied,
        those on S3 are pointed at.
    """

    task: str
    checkpoint: Location
    proxy: Location
    validation: Location | None = None
    test: Location | None = None
    head: Location | None = None
    zero_shot: ZeroShotSpec | None = None
    activation: Activation | None = None
    base: Location | None = None
    architecture: str | None = None
    note: str | None = None
    copy: bool | None = None

    def copies(self, images: Location) -> bool:
        return images.is_local if self.copy is None else self.copy


@dataclass(frozen=True)
class Checked:
    """A fine-tune that can land.

    Attributes
    ----------
    uploads : mapping of str to Location
        Path in the registry's folder → the file that is uploaded there.
    places : mapping of str to str
        ``checkpoint``, ``proxy``, ... → path in the folder, or URL where images are pointed at.
    activation : str, optional
        What ``finetune.yaml`` has to say, since no uploaded file does.
    fingerprints : mapping of Location to str
        Of everything that is uploaded, taken before it was checked.
    """

    uploads: Mapping[str, Location]
    places: Mapping[str, str]
    activation: Activation | None
    fingerprints: Mapping[Location, str]


def check_landing(landing: Landing) -> Checked:
    """Read everything of a fine-tune and refuse what a merge would refuse.

    Raises
    ------
    InputError
        With every problem found: a checkpoint that is damaged, pickled, not finite, or not a fine-tune of
        the base; another activation function than the architecture's; images that are missing,
        unlabelled or cannot be decoded; a head that does not fit.
    """
    problems: list[str] = []
    uploads: dict[str, Location] = {}
    places: dict[str, str] = {}
    fingerprints: dict[Location, str] = {}
    with _gather(problems, "task"):
        _check_name(landing.task)
    tower = activation = classes = None
    with _gather(problems, "checkpoint"):
        file = resolve_checkpoint(landing.checkpoint)
        fingerprints[file] = file.fingerprint()
        opened = open_checkpoint(file)
        tower = vision_checkpoint(opened)
        places["checkpoint"] = f"checkpoint{_suffix(opened)}"
        uploads[places["checkpoint"]] = file
        activation = _activation(landing, file, tower)
    if tower is not None:
        with _gather(problems, "checkpoint"):
            _check_weights(landing, tower)
    with _gather(problems, "head"):
        classes = _check_head(landing, tower, uploads, places, fingerprints)
    for field in IMAGES:
        images: Location | None = getattr(landing, field)
        if images is None:
            continue
        with _gather(problems, field):
            if landing.copies(images):
                fingerprints[images] = images.fingerprint()
            source = open_images(images)
            if field != "proxy":
                _check_labels_have_a_head(landing, images)
            _check_images(source, landing.copies(images), field, classes)
            places[field] = field if landing.copies(images) else images.url
            if landing.copies(images):
                # In a folder even where it is one file, whose name is part of the samples' ids.
                uploads |= {f"{field}/{name}": place for name, place in _files(images, source)}
    raise_together(problems)
    return Checked(uploads, places, activation, fingerprints)


def _check_name(task: str) -> None:
    try:
        check_name(task)
    except ValueError as error:
        raise InputError(f"{error}.") from error


def _suffix(opened: Checkpoint) -> str:
    return ".safetensors" if isinstance(opened, SafetensorsFile) else ".pt"


def _activation(landing: Landing, file: Location, tower: VisionCheckpoint) -> Activation | None:
    """What has to be written down; all that is said must agree."""
    evidence = activation_evidence(file, tower)
    stated = landing.activation
    if stated is not None and evidence is not None and evidence[0] != stated:
        raise InputError(f"{file}: {stated} is stated, but {evidence[1]} says {evidence[0]}.")
    found = stated or (evidence[0] if evidence else None)
    if landing.architecture is not None and found is not None:
        architecture = load_architecture(landing.architecture, landing.base or landing.checkpoint)
        if architecture.activation != found:
            raise InputError(
                f"{file}: was trained with {found}, but the architecture {architecture.name} uses "
                f"{architecture.activation}. For OpenAI weights it is the -quickgelu one."
            )
    # The file's own metadata travel with it, a configuration beside it does not.
    return found if "activation" not in tower.metadata else stated


def _check_weights(landing: Landing, tower: VisionCheckpoint) -> None:
    problems: list[str] = []
    base: VisionCheckpoint | None = None
    if landing.base is not None:
        with _gather(problems, "base"):
            base = open_tower(landing.base)
    if base is not None:
        problems.extend(compare_with_base(tower, base))
    elif landing.architecture is not None:
        with _gather(problems, "architecture"):
            architecture = load_architecture(landing.architecture, landing.checkpoint)
            problems.extend(_compare_shapes(tower, tower_shapes(architecture), architecture.name))
    broken = [name for name in tower.tensors if not torch.isfinite(tower.read(name)).all()]
    if broken:
        problems.append(
            f"{tower.location}: NaN or Inf in {len(broken)} weight(s): {', '.join(broken[:_SHOWN])}. The "
            "checkpoint is broken; export it again."
        )
    if not problems and base is not None and _are_equal(tower, base):
        problems.append(f"{tower.location}: equals the base. Give the fine-tuned checkpoint.")
    raise_together(problems)


def _are_equal(tower: VisionCheckpoint, base: VisionCheckpoint) -> bool:
    return all(torch.equal(read_weight(tower, base, name), base.read(name)) for name in base.tensors)


def _compare_shapes(
    tower: VisionCheckpoint, expected: Mapping[str, tuple[int, ...]], architecture: str
) -> Iterator[str]:
    own = {name: info.shape for name, info in tower.tensors.items()}
    optional = {PROJECTION} if tower.borrows_projection else set()
    wrong = sorted(
        name
        for name in (set(own) | set(expected)) - (optional - set(own))
        if own.get(name) != expected.get(name)
    )
    if wrong:
        first = wrong[0]
        yield (
            f"{tower.location}: {len(wrong)} tensor(s) are not those of {architecture} ({first}: "
            f"{own.get(first, 'missing')}, expected {expected.get(first, 'none')})."
        )


def _check_head(
    landing: Landing,
    tower: VisionCheckpoint | None,
    uploads: dict[str, Location],
    places: dict[str, str],
    fingerprints: dict[Location, str],
) -> int | None:
    """How many classes the head has; notes its file."""
    if landing.zero_shot is not None:
        if landing.head is not None:
            raise InputError("give a head or class names, not both.")
        return len(landing.zero_shot.classes)
    if landing.head is None:
        return None
    file = resolve_checkpoint(landing.head)
    fingerprints[file] = file.fingerprint()
    head = open_checkpoint(file)
    projection = tower.tensors.get(PROJECTION) if tower is not None else None
    classes = linear_head_classes(head, projection.shape[1] if projection else None)
    broken = [name for name in head.tensors if not torch.isfinite(head.read(name)).all()]
    raise_together(f"{file}: NaN or Inf in {name}; export it again." for name in broken)
    places["head"] = f"head{_suffix(head)}"
    uploads[places["head"]] = file
    return classes


def _check_labels_have_a_head(landing: Landing, images: Location) -> None:
    if landing.head is None and landing.zero_shot is None:
        raise InputError(f"{images}: images are given without a head; add a head or class names.")


def _check_images(source: ImageSource, all_of_them: bool, field: str, classes: int | None) -> None:
    ids = source.sample_ids()
    problems: list[str] = []
    labelled = field != "proxy"
    if labelled and isinstance(source, ImageFolder) and source.class_names is None:
        raise InputError(unlabelled(source.location, field))
    names = source.class_names
    if labelled and names is not None and classes is not None and len(names) > classes:
        raise InputError(
            f"{source.location}: has {len(names)} class folders, but the head has {classes} classes."
        )
    samples = source.read_all() if all_of_them else source.read(choose_samples(ids, min(PEEK, len(ids)), 0))
    for sample in samples:
        with _gather(problems):
            decode(sample, source.location)
        if labelled and sample.label is None:
            problems.append(unlabelled(source.location, field))
        elif labelled and classes is not None and sample.label is not None and sample.label >= classes:
            problems.append(
                f"{source.location}: image {sample.id!r} has label {sample.label}, but the head has "
                f"{classes} classes."
            )
    distinct = list(dict.fromkeys(problems))
    more = [f"{source.location}: and {len(distinct) - _SHOWN} images more."] if len(distinct) > _SHOWN else []
    raise_together([*distinct[:_SHOWN], *more])


def _files(images: Location, source: ImageSource) -> Iterator[tuple[str, Location]]:
    if images.is_file():
        yield images.name, images
        return
    for name in images.files():
        if source.reads(name):
            yield name, images / name


@contextmanager
def _gather(problems: list[str], field: str = "") -> Iterator[None]:
    try:
        yield
    except InputError as error:
        known = (
            f"{field}: {problem}" if field and not problem.startswith(f"{field}: ") else problem
            for problem in error.problems
        )
        problems.extend(known)
