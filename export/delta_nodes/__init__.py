"""Networks with deltas as ONNX: weights kept as the base's and what differs, delta layers as nodes with a body."""
