"""``finetune.yaml``: what a landed fine-tune is made of, and which ones there are."""

from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from esm_core.claims import claimed_numbers, version_label
from esm_core.errors import InputError, NewerFormatError
from esm_core.recipe import Activation, Digest, Name, ZeroShotSpec, check_name
from esm_core.recipe_file import parse_yaml, read_text, validated
from esm_core.storage import Location

FINETUNE = "finetune.yaml"
FORMAT = 1

IMAGES = ("proxy", "validation", "test")
"""The fields that name images."""


def _check_inside(path: str) -> str:
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise ValueError(f"{path!r} is not a plain relative path below the folder of the fine-tune")
    return path


def _check_place(text: str) -> str:
    if "://" not in text:
        return _check_inside(text)
    try:
        normal = Location.parse(text).url
    except InputError as error:
        raise ValueError(str(error)) from error
    if normal != text.rstrip("/"):
        raise ValueError("is not a plain absolute URL; give a file:// or s3:// URL without '..'")
    return normal


Inside = Annotated[str, AfterValidator(_check_inside)]
Place = Annotated[str, AfterValidator(_check_place)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileFacts(_Section):
    """A file as it was uploaded."""

    bytes: int = Field(ge=0)
    sha256: Digest


class FineTune(_Section):
    """What ``finetune.yaml`` says.

    Attributes
    ----------
    checkpoint, head : str
        Paths below the fine-tune's folder.
    proxy, validation, test : str
        A path below the folder, or the URL of images that lie elsewhere.
    activation : str, optional
        What was stated when it landed, or said by a configuration that is not part of it.
    files : dict
        Everything that was uploaded, by path below the folder.
    """

    format: Literal[1]
    task: Name
    version: int = Field(ge=1)
    created: str
    checkpoint: Inside
    proxy: Place
    validation: Place | None = None
    test: Place | None = None
    head: Inside | None = None
    zero_shot: ZeroShotSpec | None = None
    activation: Activation | None = None
    note: str | None = None
    files: dict[Inside, FileFacts]

    @model_validator(mode="after")
    def _holds_what_it_names(self) -> Self:
        if self.head is not None and self.zero_shot is not None:
            raise ValueError("give head or zero_shot, not both")
        for field in ("checkpoint", "head", *IMAGES):
            place = getattr(self, field)
            if place is None or "://" in place:
                continue
            below = () if field in ("checkpoint", "head") else (f"{place}/",)
            if place not in self.files and not any(path.startswith(below) for path in self.files if below):
                raise ValueError(f"{field}: {place!r} is not among files")
        return self


def render(finetune: FineTune) -> bytes:
    """The text of a ``finetune.yaml``."""
    content = finetune.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


def task_folder(registry: Location, task: str) -> Location:
    """Where the versions of a task are; :class:`InputError` for a name that could leave its folder."""
    try:
        return registry / check_name(task)
    except ValueError as error:
        raise InputError(f"{error}.") from error


def newest(registry: Location, task: str) -> int | None:
    """Number of the newest version of a task; None where there is none."""
    folder = task_folder(registry, task)
    return next((n for n in reversed(claimed_numbers(folder)) if _is_visible(folder, n)), None)


def versions(registry: Location, task: str) -> list[int]:
    """Numbers of the versions of a task, ascending."""
    folder = task_folder(registry, task)
    return [number for number in claimed_numbers(folder) if _is_visible(folder, number)]


def tasks(registry: Location) -> list[str]:
    """Names of the tasks that have a version, sorted."""
    return [name for name in registry.children() if _is_name(name) and newest(registry, name) is not None]


def read_finetune(registry: Location, task: str, version: int) -> FineTune:
    """What landed as a version of a task.

    Raises
    ------
    InputError
        There is no such version, or its ``finetune.yaml`` is not one; names the file and the key.
    NewerFormatError
        A newer esmerge wrote it.
    """
    location = task_folder(registry, task) / version_label(version) / FINETUNE
    if not location.is_file():
        last = newest(registry, task)
        known = f"its newest is {version_label(last)}" if last else "it has none"
        raise InputError(f"{registry}: task {task} has no version {version_label(version)}; {known}.")
    data = parse_yaml(read_text(location, FINETUNE), location)
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise InputError(f"{location}: is damaged: not what esmerge land writes. Land it again.")
    if data["format"] > FORMAT:
        raise NewerFormatError(
            f"{location}: was written in format {data['format']}, but this esmerge reads up to {FORMAT}. "
            "Upgrade esmerge."
        )
    found = validated(FineTune, data, location)
    if (found.task, found.version) != (task, version):
        raise InputError(
            f"{location}: says it is {found.task} {version_label(found.version)}, but lies in the folder of "
            f"{task} {version_label(version)}. Land it instead of copying it."
        )
    return found


def _is_visible(folder: Location, number: int) -> bool:
    return (folder / version_label(number) / FINETUNE).is_file()


def _is_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except ValueError:
        return False
