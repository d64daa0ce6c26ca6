"""The report of a run: one schema that producer and readers share, and one self-contained HTML page."""
