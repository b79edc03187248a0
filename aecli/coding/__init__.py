"""From latents to bytes: probability tables, exact evaluation of the entropy model, range coder, the .npz container."""
