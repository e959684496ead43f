"""Tables, manifests, the page and the folder on disk; reading them back."""
