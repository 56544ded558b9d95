"""The commands of the coordinator's side."""
