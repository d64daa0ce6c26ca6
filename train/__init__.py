"""Training: data, models, losses, metrics, and the methods that learn a sparse structure."""
