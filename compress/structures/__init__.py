"""What training learns and a file holds: masks, policies, patterns and deltas."""
