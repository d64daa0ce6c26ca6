"""Every measurement that needs a CUDA machine."""
