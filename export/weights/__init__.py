"""How weights are stored: each content once for all graphs, and of tasks with deltas only what differs."""
