"""Purchase intent: sessions with what they bought, metrics, features and baselines."""
