"""slimtask: one multi-task vision network in, lean per-task engines out.

Importing this package is cheap on purpose: the stages (``slimtask.train``, ``slimtask.compress``, ``slimtask.export``,
``slimtask.bench``) and the heavy libraries behind them are imported where they are used.
"""

__version__ = "0.1.0"
