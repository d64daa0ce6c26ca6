"""What sub-tasks as sparse deltas gain over T dense models: layers, blocks and whole transformers, on CPU and GPU."""
