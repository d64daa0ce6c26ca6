"""Cutting, exactly: what is dead, the constants that its readers absorb, the surgery, and the plan that replays it."""
