"""Mathematics of diffusion processes, in plain torch."""
