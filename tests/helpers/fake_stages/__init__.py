"""Fake stages for the tests of the executor and the worker.

They record each run, and behave as their config requires.
"""
