"""Generated networks through pruning, removal, file and ONNX."""
