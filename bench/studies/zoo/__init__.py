"""Torchvision's networks, half their channels removed and certified."""
