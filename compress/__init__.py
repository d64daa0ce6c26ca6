"""The sparse structures and the surgery: find what is zero, remove it through the dependency graph, prove it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
