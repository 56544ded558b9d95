"""Server optimizers: what a round does with the mean update, one file each."""
