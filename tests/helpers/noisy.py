"""A network with chance in it."""

from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.models.capsnet import CapsNet


class NoisyCapsNet(CapsNet):
    """Drops pixels of its images."""

    def class_capsules(self, images: Tensor) -> Capsules:
        return super().class_capsules(nn.functional.dropout(images, 0.2, self.training))
