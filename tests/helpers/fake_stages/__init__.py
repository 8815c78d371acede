"""Stages for the tests of the executor and the worker: they note that they ran, and do as their config says."""
