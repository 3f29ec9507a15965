"""Backend `bare`: LoRA by a plain PyTorch loop. Nothing is imported here: `engine` judges without torch."""
