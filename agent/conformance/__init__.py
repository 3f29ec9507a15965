"""What the agent expects of every training engine, as tests: docs/trainer-contract.md, made to run.

For the engines of this project and of others; docs/backends.md says how one runs it against one's own.
"""
