"""DiSparse (Sun et al., CVPR 2022): masks that the tasks decide on together, and the baselines on the same path."""
