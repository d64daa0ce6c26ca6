"""The methods that learn a sparse structure, each a Method that the training loop drives."""
