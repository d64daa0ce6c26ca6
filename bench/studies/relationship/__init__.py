"""Which tasks are alike, by the overlap of their masks."""
