"""Export: per-task ONNX graphs and TensorRT engines in one bundle, each proven equal to the PyTorch model.

Importing this package, :mod:`slimtask.export.bundle` and :mod:`slimtask.export.runtime` needs no torch.
"""
