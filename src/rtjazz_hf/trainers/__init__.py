"""Training: one module a stage, and what they share: `run`, `checkpoints`, `config`, `monitor`, `evaluation`."""
