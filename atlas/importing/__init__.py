"""Samples from files of others."""
