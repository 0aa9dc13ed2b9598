"""Helpers that several test modules use; fixtures and the parameters of tiny models are in tests/conftest.py."""
