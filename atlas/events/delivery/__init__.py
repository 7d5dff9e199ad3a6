"""Endpoints, the router that makes deliveries, and the worker that sends them."""
