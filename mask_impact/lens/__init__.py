"""What the hidden states of image tokens say: their features, a bank of text tokens in context, nearest neighbours."""
