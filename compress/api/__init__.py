"""The `compress` verb in Python: how to compress, applied to networks and to checkpoints."""
