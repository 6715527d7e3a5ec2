"""What serve.py is made of."""
