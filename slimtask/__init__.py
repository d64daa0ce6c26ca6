"""slimtask: one multi-task vision network in, lean per-task engines out.

Importing this package is cheap on purpose: its public names, those of ``__init__.pyi`` here and in the stages
(``slimtask.train``, ``slimtask.compress``, ``slimtask.export``, ``slimtask.bench``), are imported when they are first
asked for, and so are the heavy libraries behind them.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
