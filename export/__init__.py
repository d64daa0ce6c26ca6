"""Export: per-task ONNX graphs and TensorRT engines in one bundle, each proven equal to the PyTorch model.

Importing this package, :mod:`slimtask.export.bundle` and :mod:`slimtask.export.runtime` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
