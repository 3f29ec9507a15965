"""The control plane: takes jobs, keeps them in SQL, assigns them to agents, and tells everyone what happens.

`app.py` composes; `rpc store bus http` are adapters; `engine` holds the loops and services; `domain` the rules.
"""
