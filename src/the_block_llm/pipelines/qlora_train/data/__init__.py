"""Training data: the dataset of rows, the sample order, the number of epochs."""
