"""Mathematics of language models, in plain torch."""
