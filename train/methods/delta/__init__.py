"""Sparse deltas between tasks (EfficientMTL, Shoouri et al., ICCV 2023): sub-tasks stored as changes of a base task."""
