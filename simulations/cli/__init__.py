"""The commands for simulations and their results."""
