from tests.support.natsd import connections, natsd  # noqa: F401 - fixtures of this folder
