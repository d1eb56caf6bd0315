"""The endpoint: a Ray Serve application that answers OpenAI's transcription contract.

A package with an `__init__.py`, unlike `platform/`: without one, any `serve` that a dependency installs would win.
"""
