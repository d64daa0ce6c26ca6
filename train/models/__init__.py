"""Multi-task networks; importing this package registers the architectures that checkpoints name."""

from slimtask.train.models.net import MultiTaskNet, multitask_net
from slimtask.train.models.trunks import TRUNKS, ResNetTrunk
from slimtask.train.models.vit import VITS, ViTTrunk

__all__ = ["TRUNKS", "VITS", "MultiTaskNet", "ResNetTrunk", "ViTTrunk", "multitask_net"]
