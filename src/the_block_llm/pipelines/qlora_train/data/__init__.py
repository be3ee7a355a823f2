"""The training rows: dataset, sampler, number of epochs."""
