"""`python -m slimtask`: the same as the command `slimtask`."""

from __future__ import annotations

from slimtask.cli.app import main

if __name__ == "__main__":
    main()
