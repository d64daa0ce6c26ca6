"""What matters, what it costs, and what a budget allows."""
