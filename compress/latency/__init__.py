"""Latency as a function of channel counts: measured tables, counts worth having, and the integer program on both."""
