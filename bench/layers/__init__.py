"""Times of single layers, which latency budgets are planned with."""
