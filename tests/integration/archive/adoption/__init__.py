"""A database that was restored, copied or lost, and the vault that went on: no sample is lost.

Each test is a counterexample that the protocol once had; docs/adoption.md tells what keeps it.
"""
