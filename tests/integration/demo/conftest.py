from tests.support.natsd import connections, natsd  # noqa: F401 - fixtures of this folder


def pytest_configure(config):
    # peft 0.21 reads it on transformers 5.23; nothing of ours does.
    config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
