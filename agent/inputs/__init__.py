"""Brings what an attempt reads to its node: models from the hub, from S3 or by https, and datasets from S3.

    settings.py  where from, and how much is kept      failures.py  what can go wrong, in the contract's reasons
    hub.py       the model hub                         https.py     guarded downloads by https
    choice.py    which files make a model              cache.py     models kept on this node, by project
    models.py    a job's base model                    datasets.py  its datasets
    fetch.py     all of it for one attempt             probe.py     a look, before a device is charged

Runs in the uploader's child, which alone holds secrets and imports the libraries; the agent imports `settings` only.
The hub and https are no `Storage`: nothing is ever written there, and a revision has to be resolved first.
"""
