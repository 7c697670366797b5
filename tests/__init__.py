"""The tests, one package: `from tests import oracle` works from the repository's root."""
