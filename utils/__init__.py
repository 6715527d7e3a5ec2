"""What several scripts share, in modules named for what they hold."""
