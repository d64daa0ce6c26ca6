"""Delta layers as ONNX nodes: functions with a body in standard operators, and what traces networks to them."""
