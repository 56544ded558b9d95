"""The data owner's page: what an agent did, in plain words, for one browser on the agent's own machine."""
