"""The experts of a published version."""

from esm_core.artifacts import Version, read_verified
from esm_core.errors import InputError
from esm_core.experts.file import EXPERTS_NAME, ROUTING_NAME, Experts, read_experts

EXPERTS_FOLDER = "experts"


def version_experts(version: Version) -> Experts:
    """The experts of a version, both files' sha256 checked before a tensor is used; float32.

    Raises
    ------
    InputError
        The version has none.
    IntegrityError
        A file differs from what was published, or is of a newer format; the message names it.
    """
    config, tensors = (f"{EXPERTS_FOLDER}/{name}" for name in (ROUTING_NAME, EXPERTS_NAME))
    if config not in version.manifest["files"]:
        raise InputError(
            f"{version.manifest['name']} {version.label} was published without experts; "
            "merge with `experts:` in the recipe."
        )
    settings, experts = (bytes(read_verified(version, path)) for path in (config, tensors))
    return read_experts(settings, experts, version.folder / EXPERTS_FOLDER)
