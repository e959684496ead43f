"""Text and pictures to model inputs and tokens; what is masked together; positions."""
