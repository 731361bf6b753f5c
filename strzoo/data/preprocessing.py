"""The preprocessing of evaluation where no model states its own."""

from __future__ import annotations

from dataclasses import replace

from strzoo.zoo.registry import Preprocessing

# What the published networks were evaluated with.
IMAGENET = Preprocessing(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# What networks for small images are evaluated with by convention.
SMALL = replace(IMAGENET, resize=32, crop=32)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
