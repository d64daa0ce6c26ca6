"""The delta layers as TensorRT plugins, whose kernels are compiled ahead of time and lie inside the engine."""

from slimtask.export.plugins.launch import Launch, launch_of, supported
from slimtask.export.plugins.register import register_plugins

__all__ = ["Launch", "launch_of", "register_plugins", "supported"]
