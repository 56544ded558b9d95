"""What runs beside the data: the agent, its policy and its records."""
