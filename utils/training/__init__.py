"""One run of a trainer: engines, objectives, optimisers, and the loop around them."""
