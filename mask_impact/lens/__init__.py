"""What image tokens say: hidden states, banks of text tokens in context, nearest neighbours."""
