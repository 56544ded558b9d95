"""Mathematics and protocols of privacy: no files, no clock, no network."""
