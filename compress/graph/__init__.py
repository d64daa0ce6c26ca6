"""What depends on what: the axes of all tensors, how operations tie them, and the channel groups that follow."""
