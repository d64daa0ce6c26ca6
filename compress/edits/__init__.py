"""What a checkpoint replays on a fresh network besides plans: skipped blocks, branches, selected tasks, deltas."""
