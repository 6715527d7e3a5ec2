"""A trained network without Paddle: its shape, its directory, and what answers with it."""
