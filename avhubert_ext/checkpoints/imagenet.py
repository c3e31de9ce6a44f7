"""ImageNet weights for the ShuffleNetV2 frontend, from a file of torchvision."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from avhubert_ext.checkpoints.torch_file import check_finite, check_sums
from avhubert_ext.errors import InputError
from avhubert_ext.models.frontends import ShuffleNetV2

REPLACED = ("conv1.", "conv5.", "fc.")  # torchvision's layers that paper A's trunk does not have
UNUSED = "num_batches_tracked"  # a counter that nothing reads; missing in older files
SHOWN = 5  # misfits named in an error message


def load_imagenet_shufflenet(trunk: ShuffleNetV2, path: Path | str) -> None:
    """Copy stages 2 to 4 of torchvision's `shufflenetv2_x1_0` into a trunk of width 1.0.

    The stem (2D on RGB there, 3D on gray here), the last convolution (1024 channels there, 512
    here) and the classifier do not fit, so those of the trunk do not change.

    Args:
        trunk: The trunk to change.
        path: torchvision's state dict, `.pth` or `.safetensors`.

    Raises:
        InputError: If the file is missing or damaged, contains anything but tensors, or its stages
            have other names or shapes.
    """
    path = Path(path)
    stored = read_tensors(path)
    given = {n: t for n, t in stored.items() if not n.startswith(REPLACED) and UNUSED not in n}
    own = trunk.state_dict()
    expected = {n: t for n, t in own.items() if n.startswith("stage") and UNUSED not in n}
    misfits = [f"{name} is missing" for name in expected.keys() - given.keys()]
    misfits += [f"{name} is unknown" for name in given.keys() - expected.keys()]
    misfits += [
        f"{name} has shape {list(given[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected.keys() & given.keys()
        if given[name].shape != expected[name].shape
    ]
    if misfits:
        more = f" and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
        raise InputError(
            f"{path}: {', '.join(sorted(misfits)[:SHOWN])}{more}; "
            "give the weights of torchvision's shufflenetv2_x1_0"
        )
    check_finite(path, given)
    trunk.load_state_dict(own | given)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or `.pth` file by name. Nothing in it is executed.

    `read_torch_file` cannot read torchvision's file, whose format is older than PyTorch 1.6.

    Raises:
        InputError: If the file is missing or damaged, or contains anything but tensors.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: correct the path, or start from fresh weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            stored = load_file(path)
        else:
            if zipfile.is_zipfile(path):  # torchvision's own file is older and has no checksums
                check_sums(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's about other problems of the pickle
                stored = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        # Without PyTorch's own message, which advises the user to switch its safety off.
        raise InputError(
            f"{path}: truncated, or not only tensors ({type(error).__name__}); copy it again"
        ) from None
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(t, Tensor) for name, t in stored.items()
    ):
        raise InputError(f"{path}: not a state dict of tensors; save only the model's state_dict()")
    return stored
