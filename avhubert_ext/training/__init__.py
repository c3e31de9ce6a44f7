"""Students, losses, and the distillation step."""
