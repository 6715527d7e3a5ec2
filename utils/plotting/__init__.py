"""What plot.py reads, computes and draws."""
