"""Hostile files and options by the thousand: no traceback, no hang, no code run, nothing read outside, nothing lost."""
