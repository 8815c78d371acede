"""Stages for the tests of the executor and the worker.

They record that they ran, and behave as configured.
"""
