"""Exact removal of dead channels from an ONNX file: ``compress.compress_onnx``."""
