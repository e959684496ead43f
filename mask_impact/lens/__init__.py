"""What image tokens say."""
