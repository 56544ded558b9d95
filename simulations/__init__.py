"""Whole federations on one machine, over the same client and server code as a deployment."""
