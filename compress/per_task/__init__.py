"""One network for every task of a trained one, and the table of what they cost."""
