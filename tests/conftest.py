"""Settings for all tests."""

from hypothesis import settings

# A deadline measures the machine and who else is on it, not the code.
settings.register_profile("tacit", deadline=None)
settings.load_profile("tacit")
