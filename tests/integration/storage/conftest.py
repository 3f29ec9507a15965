from __future__ import annotations

from tests.support.aws import running_aws, store

__all__ = ["running_aws", "store"]
