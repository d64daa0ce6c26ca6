"""The sparse structures and the surgery: find what is zero, remove it through the dependency graph, prove it."""
