"""What distillation by trajectories is compared with: chosen images, other distillation, generated images."""
