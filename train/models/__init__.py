"""Multi-task networks; importing this package registers the architectures that checkpoints name."""

from slimtask.train.models.net import MultiTaskNet, multitask_net
from slimtask.train.models.trunks import TRUNKS, ResNetTrunk

__all__ = ["TRUNKS", "MultiTaskNet", "ResNetTrunk", "multitask_net"]
