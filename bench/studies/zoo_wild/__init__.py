"""Networks from the wild, one of each family, with half their channels removed: by slimtask and by torch-pruning."""
