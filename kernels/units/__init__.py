"""Layers of which tasks change whole units (hidden units, heads), all tasks reading one input, in standard operators.

A task's activation is kept as (shared, changed columns) through the pointwise function or the attention and enters the
next product as a correction. No custom kernel: ONNX Runtime, TensorRT and torch.compile take it as it is.
"""
