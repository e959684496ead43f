"""mask-impact: which tokens does a model use, at which layer, in which head?"""

__version__ = "0.1.0"
