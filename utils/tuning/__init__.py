"""Parts of the search of hyper-parameters."""
