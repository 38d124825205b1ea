"""Experts of a published version as files for other software: dense open_clip models, PEFT adapters."""

import json
from collections.abc import Mapping

from torch import Tensor

from esm_core.adapter import Adapter, adapter
from esm_core.architecture import CONFIG_NAME
from esm_core.artifacts import Version, read_verified
from esm_core.checkpoints import TensorInfo, tensors_in, write_safetensors
from esm_core.errors import InputError
from esm_core.experts import dense_weights
from esm_core.experts.version import version_experts
from esm_core.static import WEIGHTS_NAME
from esm_core.storage import Location

ADAPTER_CONFIG, ADAPTER_WEIGHTS, README = "adapter_config.json", "adapter_model.safetensors", "README.md"


def export_task(version: Version, task: str, target: Location) -> None:
    """Write one task's expert as a full open_clip model, which loads as ``local-dir:``.

    The static model plus the expert, in the static model's dtypes; the text tower is unchanged. Equal
    versions give equal bytes.

    Raises
    ------
    InputError
        The version has no experts or none for ``task``, or ``target`` is not empty.
    IntegrityError
        A file of the version is damaged.
    """
    _check_empty(target)
    experts = version_experts(version)
    experts.index(task)
    _write_tensors(target / WEIGHTS_NAME, dense_weights(experts, _static(version), task))
    (target / CONFIG_NAME).write_bytes(bytes(read_verified(version, f"model/{CONFIG_NAME}")))


def export_adapters(version: Version, target: Location) -> dict[str, Adapter]:
    """Write every task's expert as a PEFT adapter of the published static model, ``target/{task}/``.

    Equal versions give equal bytes.

    Returns
    -------
    dict
        Task → what was written.

    Raises
    ------
    InputError
        The version has no experts or none PEFT can hold, or ``target`` is not empty.
    IntegrityError
        A file of the version is damaged.
    """
    _check_empty(target)
    experts = version_experts(version)
    static = _static(version)
    written = {}
    for task in experts.config.tasks:
        made = written[task] = adapter(experts, static, task)
        _write_tensors(target / task / ADAPTER_WEIGHTS, made.tensors)
        config = json.dumps(made.config, indent=2, sort_keys=True) + "\n"
        (target / task / README).write_bytes(_readme(version, task, made).encode())
        (target / task / ADAPTER_CONFIG).write_bytes(config.encode())
    return written


def _check_empty(target: Location) -> None:
    if target.is_file() or target.children():
        raise InputError(f"{target}: is not empty. Give a folder that is empty or does not exist.")


def _static(version: Version) -> dict[str, Tensor]:
    return tensors_in(read_verified(version, f"model/{WEIGHTS_NAME}"))


def _write_tensors(location: Location, tensors: Mapping[str, Tensor]) -> None:
    infos = {name: TensorInfo(tuple(tensors[name].shape), tensors[name].dtype) for name in sorted(tensors)}
    write_safetensors(location, infos, lambda name: tensors[name])


def _readme(version: Version, task: str, made: Adapter) -> str:
    name, label = version.manifest["name"], version.label
    model = f"local-dir:STORE/artifacts/{name}/{label}/model"
    parts = (
        ("In low rank", made.low_rank),
        ("In modules that PEFT copies per adapter (`modules_to_save`)", made.modules),
        ("Whole, in the place of the base model's", made.whole),
    )
    lists = "\n".join(f"{title}:\n\n{_bullets(names)}\n" for title, names in parts)
    return f"""# {task}: PEFT adapter of {name} {label}

The expert of task `{task}`, for the static model of {name} {label} and no other.

```python
import open_clip, peft

model, _, preprocess = open_clip.create_model_and_transforms("{model}")
model = peft.PeftModel.from_pretrained(model, "THIS_FOLDER").eval()
```

Tested with PEFT 0.21.

One adapter per model: what is held whole replaces the base model's parameters when the adapter is loaded
(`bias="all"`). So PEFT refuses a second adapter on the same model, `disable_adapter` does not give back the
static model, and PEFT's `save_pretrained` does not write all of it.

## Left out

Nothing: the adapter holds everything this expert changes.

## What it holds

{lists}"""


def _bullets(names: tuple[str, ...]) -> str:
    return "\n".join(f"- `{name}`" for name in names) or "- none"
