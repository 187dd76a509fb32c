"""The corpus: a band that composes and plays labelled takes, recordings of others, and the store of their latents."""
