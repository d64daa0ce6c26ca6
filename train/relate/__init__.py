"""How alike the tasks of a data set are to a network that has not been trained yet, and which to train together."""
