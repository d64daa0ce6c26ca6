"""Multi-task data sets behind one protocol: generated scenes with exact ground truth, NYU-v2 and CamVid."""
