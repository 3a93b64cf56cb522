"""The models: eager PyTorch modules with their preprocessing inside, and how they are stored."""
