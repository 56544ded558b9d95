"""State in SQLAlchemy; the only SQL of the project."""
