"""Backbones, the first pluggable part of a detector: images to feature maps."""

from detection.backbones.backbone import Backbone
from detection.backbones.fpn import FPN
from detection.backbones.googlenet import GoogLeNet
from detection.backbones.rcnn import RCNN
from detection.backbones.recurrent_stages import RecurrentStages
from detection.backbones.resnet import ResNet
from detection.backbones.timm import Timm
from detection.backbones.tiny import Tiny
from detection.backbones.vgg import VGG16

__all__ = ["FPN", "RCNN", "Backbone", "GoogLeNet", "RecurrentStages", "ResNet", "Timm", "Tiny", "VGG16"]
