"""Every merge method, naming scheme and image source of esmerge passes the suites that others are given."""

import io
import re
import tarfile
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from esm_core import images
from esm_core.checkpoints.layouts import LAYOUTS, bare_tower, hf_clip, hf_vit, open_clip
from esm_core.images.folder import ImageFolder
from esm_core.images.parquet import ParquetImages
from esm_core.images.webdataset import WebDataset
from esm_core.methods import BASELINES, average, iso_c, iso_cts, task_arithmetic, tsv_m
from esm_core.testing import ImageSourceTests, LayoutTests, MergeMethodTests

# Merge methods.


class TestAverage(MergeMethodTests):
    module = average


class TestTaskArithmetic(MergeMethodTests):
    module = task_arithmetic


class TestTsvM(MergeMethodTests):
    module = tsv_m


class TestIsoC(MergeMethodTests):
    module = iso_c


class TestIsoCts(MergeMethodTests):
    module = iso_cts


# Naming schemes.


class TestOpenClip(LayoutTests):
    module = open_clip
    unknown = ("visual.head.weight",)
    beside = ("logit_scale", "transformer.resblocks.0.ln_1.weight", "head.weight")

    def named(self, tower):
        return {f"visual.{name}": tensor for name, tensor in tower.items()}


class TestImageEncoder(TestOpenClip):
    unknown = ("model.visual.head.weight",)

    def named(self, tower):
        return {f"model.visual.{name}": tensor for name, tensor in tower.items()}


class TestBareTower(LayoutTests):
    module = bare_tower
    unknown = ("transformer.resblocks.0.ls_1.gamma", "attn_pool.query")

    def named(self, tower):
        return tower


def hf_names(tower):
    """Names of transformers' blocks; queries, keys and values apart."""
    found = {}
    for name, tensor in tower.items():
        key = name.replace("transformer.resblocks", "encoder.layers").replace(".attn.", ".self_attn.")
        key = key.replace("ln_pre", "pre_layrnorm").replace("ln_post", "post_layernorm")
        key = key.replace(".ln_", ".layer_norm").replace(".c_fc.", ".fc1.").replace(".c_proj.", ".fc2.")
        if "in_proj_" in key:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                found[key.replace("in_proj_", f"{letter}_proj.")] = part
        else:
            found[key] = tensor
    renamed = {"conv1.weight": "patch_embedding.weight", "positional_embedding": "position_embedding.weight"}
    for old, new in {**renamed, "class_embedding": "class_embedding"}.items():
        found[f"embeddings.{new}"] = found.pop(old)
    return found


class TestHfClipVisionModel(LayoutTests):
    """As transformers 5 writes it."""

    module = hf_clip
    unknown = ("embeddings.patch_embedding.bias", "encoder.layers.0.self_attn.g_proj.weight")
    beside = ("classifier.weight",)
    missing = ("proj",)

    def named(self, tower):
        return {name: tensor for name, tensor in hf_names(tower).items() if name != "proj"}


class TestHfClipModel(LayoutTests):
    module = hf_clip
    unknown = ("vision_model.embeddings.patch_embedding.bias", "vision_model.head.probe")
    beside = ("text_model.final_layer_norm.weight", "logit_scale", "text_projection.weight")

    def named(self, tower):
        named = {f"vision_model.{name}": tensor for name, tensor in hf_names(tower).items()}
        projection = named.pop("vision_model.proj")
        return named | {"visual_projection.weight": projection.T}


class TestHfViT(LayoutTests):
    module = hf_vit
    vision: ClassVar = {"no_ln_pre": True}
    unknown = ("embeddings.distillation_token", "encoder.layer.0.layer_scale.lambda1")
    beside = ("pooler.dense.weight", "classifier.weight")

    @property
    def tower(self):
        whole = super().tower
        return {**whole, "proj": whole["proj"].new_ones(len(whole["proj"])).diag()}

    def named(self, tower):
        named = {name: tensor for name, tensor in hf_names(tower).items() if name != "proj"}
        found = {}
        for name, tensor in named.items():
            key = name.replace("encoder.layers", "encoder.layer").replace("post_layernorm", "layernorm")
            key = key.replace("layer_norm1", "layernorm_before").replace("layer_norm2", "layernorm_after")
            key = key.replace("self_attn.out_proj", "attention.output.dense")
            for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
                key = key.replace(f"self_attn.{letter}_proj", f"attention.attention.{word}")
            found[key.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")] = tensor
        patch = found.pop("embeddings.patch_embedding.weight")
        return found | {
            "embeddings.patch_embeddings.projection.weight": patch,
            "embeddings.patch_embeddings.projection.bias": patch.new_zeros(len(patch)),
            "embeddings.position_embeddings": found.pop("embeddings.position_embedding.weight")[None],
            "embeddings.cls_token": found.pop("embeddings.class_embedding")[None, None],
        }


class TestHfViTInMemory(TestHfViT):
    """As ``state_dict()`` names it since transformers 5."""

    unknown = ("vit.embeddings.distillation_token", "vit.layers.0.layer_scale.lambda1")

    def named(self, tower):
        found = {}
        for name, tensor in super().named(tower).items():
            key = name.replace("encoder.layer.", "layers.").replace(
                "attention.output.dense", "attention.o_proj"
            )
            key = re.sub(r"attention\.attention\.(\w)\w+", r"attention.\1_proj", key)
            key = key.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")
            found[f"vit.{key}"] = tensor
        return found


# Image sources.


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


class TestImageFolder(ImageSourceTests):
    source = ImageFolder

    def write(self, folder, images, labels):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            (folder / f"class{label}" / f"{number}.png").write_bytes(png(image))
        return folder


class TestWebDataset(ImageSourceTests):
    source = WebDataset

    def write(self, folder, images, labels):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                for name, data in ((f"{number}.png", png(image)), (f"{number}.cls", b"%d" % label)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        (folder / "train.tar").write_bytes(stream.getvalue())
        return folder / "train.tar"


class TestParquet(ImageSourceTests):
    source = ParquetImages

    def write(self, folder, images, labels):
        stream = pa.BufferOutputStream()
        pq.write_table(pa.table({"image": [png(image) for image in images], "label": labels}), stream)
        (folder / "train.parquet").write_bytes(stream.getvalue().to_pybytes())
        return folder


class _OnS3:
    @pytest.fixture
    def folder(self, bucket, request):
        return bucket / type(self).__name__ / request.node.name / "images"


@pytest.mark.s3
class TestImageFolderOnS3(_OnS3, TestImageFolder):
    pass


@pytest.mark.s3
class TestWebDatasetOnS3(_OnS3, TestWebDataset):
    pass


@pytest.mark.s3
class TestParquetOnS3(_OnS3, TestParquet):
    pass


def test_nothing_of_esmerge_is_left_out() -> None:
    here = [item for item in globals().values() if isinstance(item, type)]
    modules = {
        item.module.__name__
        for item in here
        if issubclass(item, MergeMethodTests | LayoutTests) and hasattr(item, "module")
    }
    sources = {item.source for item in here if issubclass(item, ImageSourceTests) and hasattr(item, "source")}
    assert {f"esm_core.methods.{name}" for name in BASELINES} <= modules
    assert {f"esm_core.checkpoints.layouts.{name}" for name in LAYOUTS} <= modules
    assert set(images._SOURCES) <= sources
