"""What file and folder names say: a task, a role, or nothing."""

import re
from collections.abc import Sequence

from esm_core.names import check_name

Words = tuple[str, ...]

ROLES = {
    **dict.fromkeys(("proxy", "proxies", "unlabelled", "unlabeled", "calib", "calibration"), "proxy"),
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
"""Words for what images are for."""

BASES = {"base", "pretrained", "zeroshot", "pretrain", "init", "original", "openai"}
_IMAGES = {"image", "images", "img", "imgs", "data", "dataset", "datasets", "photos"}
_SHARD = re.compile(r"\d{4,}")
_HEADS = {"head", "heads", "classifier", "classifiers", "classification", "linear", "fc"}
_NOTHING = {
    *("checkpoint", "checkpoints", "ckpt", "model", "models", "weights", "state", "dict", "pytorch", "open"),
    *("clip", "visual", "vision", "encoder", "tower", "finetuned", "finetune", "fine", "tuned", "tune"),
    *("nonlinear", "best", "last", "final", "latest", "epoch", "step", "expert", "experts"),
}
"""Words in the names of checkpoints that are no task by themselves."""


def words(name: str) -> Words:
    """The words of a name in lower case; ``ImageNet_val-v2`` is ``imagenet``, ``val``, ``v2``."""
    return tuple(re.findall(r"[^\W_]+", name.lower()))


def key(found: Sequence[str]) -> str:
    """What is compared: ``Stanford-Cars`` and ``stanford_cars`` are the same."""
    return "".join(found)


def role_of(name: str) -> str:
    """What a folder or file is for by its own name; empty where that does not say it."""
    return next((ROLES[word] for word in words(name) if word in ROLES), "")


def image_key(name: str) -> str:
    """The task that a folder or file of images is named for: ``cars`` for ``cars-test``, ``cars_images``."""
    rest = [word for word in words(name) if word not in ROLES and not _SHARD.fullmatch(word)]
    return key([word for word in rest if word not in _IMAGES] or rest)


def is_role(name: str) -> bool:
    """Whether a name says what images are for, and of no task: ``test``, ``val_images``."""
    found = set(words(name))
    return bool(found & set(ROLES)) and found <= set(ROLES) | _IMAGES


def head_key(path: str) -> str:
    """The task that a head is named for, by its file or else by its folder."""
    *folders, file = path.split("/")
    own = key([w for w in words(_stem(file)) if w not in _HEADS])
    return own or key(words(folders[-1]) if folders else ())


def is_base(path: str) -> bool:
    """Whether a checkpoint is called like what others start from: ``base.pt``, ``pretrained/model.bin``."""
    found = [w for w in words(_own_name(path)) if w not in _NOTHING]
    return bool(found) and set(found) <= BASES | {"zero", "shot", "pre", "trained"} and key(found) != "pre"


def task_names(paths: Sequence[str]) -> dict[str, str]:
    """A name for each checkpoint: usable, unique, without the words that all of them have at an end.

    ``vit-b32-cars.pt`` and ``vit-b32-signs.pt`` are ``cars`` and ``signs``.
    """
    plain = {path: _own_name(path) for path in paths}
    split = {path: re.split(r"([-_. ]+)", name) for path, name in plain.items()}
    front = _shared(list(split.values()))
    back = _shared([parts[::-1] for parts in split.values()])
    names: dict[str, str] = {}
    for path in paths:
        parts = split[path]
        shorter = "".join(parts[front : len(parts) - back]) if len(paths) > 1 else plain[path]
        names[path] = _unique(_usable(shorter or plain[path]), set(names.values()))
    return names


def _shared(split: list[list[str]]) -> int:
    """How many parts all have in common at the front, a word with what separates it from the next."""
    most = min(len(parts) for parts in split) - 1 if split else 0
    count = 0
    while count < most and len({parts[count] for parts in split}) == 1:
        count += 1
    return count - count % 2


def _own_name(path: str) -> str:
    """The name of a checkpoint: its file's, or its folder's where the file is called like any other."""
    *folders, file = path.split("/")
    for name in (_stem(file), *reversed(folders)):
        if any(w not in _NOTHING and not w.isdigit() for w in words(name)):
            return name
    return _stem(file)


def _stem(file: str) -> str:
    return file.rpartition(".")[0] or file


def _usable(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    plain = re.sub(r"\.{2,}", ".", plain).strip("._-")[:72] or "task"
    return check_name(plain)


def _unique(name: str, taken: set[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found
