"""The commands of the data owner's side."""
