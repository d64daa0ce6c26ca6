"""AdaShare (Sun et al., NeurIPS 2020): which task executes which block of the trunk, learned with the weights."""
