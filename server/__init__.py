"""What coordinates: rounds, aggregation, the store, the registry and the service."""
