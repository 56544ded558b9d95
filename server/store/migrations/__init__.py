"""How the tables came to be, one dated and reversible step a file."""
