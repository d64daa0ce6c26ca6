"""Measuring what compression bought: timers, an interleaved protocol, backends, tables, plots and the HTML report."""
