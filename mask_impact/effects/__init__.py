"""What the answer needs: masks over several layers, carried on to the logits."""
