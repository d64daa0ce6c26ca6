"""Latencies: what is timed, how, and under which conditions."""
