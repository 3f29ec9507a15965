"""`python -m controlplane.domain.spec > docs/spec.md`; with `--schema`, the JSON Schema instead."""

import json
import sys

from controlplane.domain.spec.reference import reference
from controlplane.domain.spec.schema import json_schema

if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(json_schema(), indent=2)}\n" if sys.argv[1:] == ["--schema"] else reference())
