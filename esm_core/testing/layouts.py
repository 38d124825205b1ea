"""What every naming scheme of checkpoints does."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from esm_core.architecture import Architecture, tower_shapes
from esm_core.checkpoints import Checkpoint, open_checkpoint
from esm_core.checkpoints.layouts import LAYOUTS, Layout, as_layout
from esm_core.checkpoints.names import VisionCheckpoint
from esm_core.errors import InputError
from esm_core.storage import Location

VISION = {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
PROJECTION = "proj"
_ANY_TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1}


class LayoutTests:
    """Subclass it with the module of the scheme, and the way from open_clip's names to it::

        class TestTimm(LayoutTests):
            module = timm_clip
            unknown = ("blocks.0.attn.rel_pos",)

            def named(self, tower):
                return {...}

    Attributes
    ----------
    module : module
        With ``TITLE`` and ``find_tower``.
    vision : dict
        Changes of open_clip's ``vision_cfg`` that the scheme's towers have.
    unknown : tuple of str
        Names that would be part of the scheme's tower, but have no counterpart in open_clip's.
    beside : tuple of str
        Names of the scheme that are no part of the tower, such as a head.
    missing : tuple of str
        Tensors of the tower that the scheme has no place for (``proj`` at most, which is then borrowed).
    """

    module: ClassVar[ModuleType]
    vision: ClassVar[Mapping[str, object]] = {}
    unknown: ClassVar[tuple[str, ...]] = ()
    beside: ClassVar[tuple[str, ...]] = ("head.weight",)
    missing: ClassVar[tuple[str, ...]] = ()

    def named(self, tower: dict[str, Tensor]) -> dict[str, Tensor]:
        """A tower of open_clip, names without ``visual.``, as a file of the scheme holds it."""
        raise NotImplementedError

    @property
    def layout(self) -> Layout:
        return as_layout(self.module)

    @property
    def tower(self) -> dict[str, Tensor]:
        """A small tower, every value random; ``proj`` the identity where the scheme cannot hold another."""
        config = {"embed_dim": 32, "vision_cfg": {**VISION, **self.vision}, "text_cfg": _ANY_TEXT}
        shapes = tower_shapes(Architecture(name="tiny", model_cfg=config, preprocess_cfg={}))
        generator = torch.Generator().manual_seed(0)
        return {
            name.removeprefix("visual."): torch.randn(shape, generator=generator)
            for name, shape in sorted(shapes.items())
        }

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "fine-tune.safetensors"

    def opened(self, file: Path, tensors: Mapping[str, Tensor]) -> Checkpoint:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        return open_checkpoint(Location.parse(str(file)))

    def seen(self, file: Path, tensors: Mapping[str, Tensor]) -> VisionCheckpoint:
        """The tower in a file with these tensors."""
        checkpoint = self.opened(file, tensors)
        tower = self.layout.find_tower(checkpoint)
        assert tower is not None, "a file of the scheme was not known as one"
        return VisionCheckpoint(checkpoint, tower)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_every_tensor_of_the_tower_is_found_once_and_read_as_it_was(
        self, file: Path, dtype: torch.dtype
    ) -> None:
        tower = {name: tensor.to(dtype) for name, tensor in self.tower.items()}
        found = self.seen(file, self.named(tower))
        expected = {f"visual.{name}": tensor for name, tensor in tower.items() if name not in self.missing}
        assert set(found.tensors) == set(expected)
        for name, tensor in expected.items():
            info, read = found.tensors[name], found.read(name)
            assert (info.shape, info.dtype) == (tuple(tensor.shape), dtype), name
            assert (read.shape, read.dtype, read.is_contiguous()) == (tensor.shape, dtype, True), name
            assert torch.equal(read, tensor), name

    def test_what_is_beside_the_tower_is_left_out_and_said(self, file: Path) -> None:
        found = self.seen(file, self.named(self.tower) | {name: torch.ones(3) for name in self.beside})
        assert set(self.beside) <= set(found.ignored)
        assert len(found.tensors) == len(self.tower) - len(self.missing)

    def test_a_tensor_of_the_tower_that_open_clip_has_not_is_never_dropped(self, file: Path) -> None:
        for name in self.unknown:
            try:
                found = self.seen(file, self.named(self.tower) | {name: torch.ones(3)})
            except InputError as error:
                assert name in str(error), "the error must name the tensor"  # noqa: PT017
            else:
                # A later stage refuses it then, since the base has no such tensor.
                assert name not in found.ignored
                assert len(found.tensors) == len(self.tower) - len(self.missing) + 1

    def test_a_tensor_that_is_missing_is_never_made_up(self, file: Path) -> None:
        named = self.named(self.tower)
        whole = set(self.seen(file, named).tensors)
        for name in named:
            checkpoint = self.opened(file, {key: value for key, value in named.items() if key != name})
            try:
                tower = self.layout.find_tower(checkpoint)
            except InputError as error:
                assert str(error)  # noqa: PT017
            else:
                assert tower is None or {f"visual.{key}" for key in tower.sources} < whole, name

    def test_only_proj_is_ever_borrowed(self, file: Path) -> None:
        assert set(self.missing) <= {PROJECTION}
        assert self.seen(file, self.named(self.tower)).borrows_projection or not self.missing

    def test_no_other_scheme_takes_its_files(self, file: Path) -> None:
        checkpoint = self.opened(file, self.named(self.tower))
        others = [own for own in LAYOUTS.values() if own.title != self.layout.title]
        assert [own.title for own in others if own.find_tower(checkpoint) is not None] == []

    def test_files_of_other_kinds_are_not_taken(self, file: Path) -> None:
        for names in (["layer1.0.conv1.weight", "fc.weight"], ["weight", "bias"]):
            assert self.layout.find_tower(self.opened(file, {name: torch.ones(2) for name in names})) is None
