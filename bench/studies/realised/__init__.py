"""How much of a FLOP ratio becomes speed, and what accuracy stays, beside torch-pruning."""
