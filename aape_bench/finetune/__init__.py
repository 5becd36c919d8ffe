"""Fine-tuning: the whole encoder and a linear head trained on a task."""
