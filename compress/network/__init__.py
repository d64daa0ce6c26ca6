"""The network as its owner wrote it: what hangs on it, what it takes and returns, and runs that leave no trace."""
