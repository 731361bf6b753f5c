"""The architectures of the zoo, with the key layout of the published checkpoints."""

from strzoo.models.create import create_model, list_architectures
from strzoo.models.mobilenetv1 import MobileNetV1
from strzoo.models.resnet import CifarResNet, ResNet

__all__ = ["CifarResNet", "MobileNetV1", "ResNet", "create_model", "list_architectures"]
