"""What a latency budget keeps: one network of a user's own, cut to equal measured speed-ups by three ways."""
