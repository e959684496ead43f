"""From text and pictures to model inputs and tokens; units, that is what is masked together; positions."""
