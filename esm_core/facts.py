"""What inspection found of each input: values that a plan is made of and a manifest tells."""

from pydantic import BaseModel, ConfigDict

from esm_core.extensions import Code


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True)


class CheckpointFacts(_Facts):
    """A checkpoint as it was inspected.

    Attributes
    ----------
    url : str
        As in the recipe.
    weights : str
        Where its weights are read from: ``url``, or its import in the store.
    sha256 : str
        Of the file.
    tensors_sha256 : str
        Of the vision tower's names, dtypes and values, whatever the file's format.
    bytes : int
    layout : str
    fingerprint : str
        Of the file at ``url``, when it was inspected.
    borrows_projection : bool
        Whether the layout may be without ``visual.proj``, the base's then being taken.
    code : Code, optional
        Which code knows the layout, where another distribution brings it.
    """

    url: str
    weights: str
    sha256: str
    tensors_sha256: str
    bytes: int
    layout: str
    fingerprint: str
    borrows_projection: bool = False
    code: Code | None = None

    @property
    def identity(self) -> str:
        """What determines the weights: the file, or where others say what it means, what they make of it."""
        return self.sha256 if self.code is None else self.tensors_sha256


class ImagesFacts(_Facts):
    """Labelled images: where they are, how many, and a digest of contents and labels."""

    url: str
    count: int
    sha256: str


class TaskFacts(_Facts):
    """One task as it was inspected.

    Attributes
    ----------
    proxies, proxies_sha256
        Ids of the chosen proxy samples, in order, and a digest of their contents.
    routing_proxies, routing_proxies_sha256
        The same of those the router is fitted on; where experts are asked for.
    head_sha256 : str, optional
        Of the linear head's file.
    """

    name: str
    checkpoint: CheckpointFacts
    proxies: list[str]
    proxies_sha256: str
    routing_proxies: list[str] = []
    routing_proxies_sha256: str | None = None
    test: ImagesFacts | None = None
    validation: ImagesFacts | None = None
    head_sha256: str | None = None
